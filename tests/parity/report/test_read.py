"""JSON read back: nothing is lost, and what is damaged is refused in words that name file and place."""

from __future__ import annotations

import json
import math
from pathlib import Path

import jsonschema
import pytest

import parity
from parity.errors import BadInput
from parity.report.json import as_json, write
from parity.report.read import from_json, read
from parity.results import STATUSES, Report
from tests.parity.report.samples import HOSTILE, UNPRINTABLE, report, result, verdict

SCHEMA = json.loads((Path(parity.__file__).parent.parent / "docs" / "report.schema.json").read_text())


def odd():
    """Everything that is hard to carry."""
    numbers = verdict(
        "failed", max_error=math.inf, bound_ratio=math.nan, candidate=math.nan, truth=-math.inf, bound=None
    )
    bare = verdict(worst_index=None, candidate=None, reference=None, truth=None, picture=None)
    scalar = verdict(worst_index=())
    words = {"reason": HOSTILE, "cause": UNPRINTABLE, "notes": (HOSTILE, UNPRINTABLE)}
    return Report({HOSTILE: UNPRINTABLE}, (result("failed", verdicts=(numbers, bare, scalar), **words),), 1 / 3, 7)


@pytest.mark.parametrize(
    "found", [report(*STATUSES), report("passed", interrupted=True), report(empty_shard=True), report(), odd()]
)
def test_round_trip(tmp_path, found):
    document = as_json(found)
    jsonschema.validate(document, SCHEMA)
    write(found, tmp_path / "report.json")
    again = read(tmp_path / "report.json")
    assert as_json(again) == document
    assert again.exit_code == found.exit_code
    assert [r.worst is None for r in again.results] == [r.worst is None for r in found.results]


def test_a_report_without_pictures_and_notes_is_read():
    """As an older parity wrote it."""
    document = as_json(report("failed"))
    del document["cases"][0]["notes"]
    for quantity in document["cases"][0]["quantities"]:
        del quantity["picture"]
    assert from_json(document).results[0].verdicts[0].picture is None


def places(value, way=()):
    """Every place in a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*way, key)
        yield from places(item, (*way, key))


@pytest.mark.parametrize("planted", [None, "no such thing", -1.5, True, [None], {"a": None}], ids=str)
def test_a_wrong_value_anywhere_is_refused_or_carried_never_a_crash(planted):
    original = as_json(report("failed", "skipped"))
    refused = 0
    for *way, last in list(places(original)):
        document = json.loads(json.dumps(original))
        place = document
        for step in way:
            place = place[step]
        place[last] = planted
        try:
            as_json(from_json(document))
        except BadInput:
            refused += 1
    assert refused > 20


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d["cases"][1].pop("seed"), "`cases[1].seed` must be a whole number; got None"),
        (lambda d: d["cases"][0].update(status="fine"), "`cases[0].status` must be one of passed, failed,"),
        (lambda d: d["cases"][0]["quantities"][0].update(bound=[]), "`cases[0].quantities[0].bound` must be a number"),
        (lambda d: d["cases"][0]["quantities"][0]["picture"].update(grid="i"), "picture.grid` must be a list"),
        (lambda d: d["cases"].append(7), "`cases[2]` must be an object; got 7"),
        (lambda d: d["cases"].pop(), "its `summary` is"),
        (lambda d: d.update(exit_code=0), "its `exit_code` is 0, and its cases make it 1"),
        (lambda d: d["environment"].update(python=3), "`environment.python` must be text"),
        (lambda d: d.update(schema=2), "schema 2; this parity reads 1"),
        (lambda d: d.pop("schema"), "no report of `parity run --json`"),
        (lambda d: d.update(kind="bench"), "no report of `parity run --json`"),
    ],
)
def test_what_is_damaged_foreign_or_of_the_future_is_refused_by_name(tmp_path, change, words):
    document = as_json(report("failed", "passed"))
    change(document)
    path = tmp_path / "shard.json"
    path.write_text(json.dumps(document))
    with pytest.raises(BadInput) as raised:
        read(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert words in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[" * 100_000, b"[]", b"null", b'{"schema": 1}'])
def test_what_is_no_report_is_refused(tmp_path, content):
    path = tmp_path / "shard.json"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=r"shard\.json"):
        read(path)


def test_half_a_report_and_none_are_refused(tmp_path):
    write(report("passed"), tmp_path / "whole.json")
    (tmp_path / "half.json").write_text((tmp_path / "whole.json").read_text()[:500])
    with pytest.raises(BadInput, match="not JSON, or not all of it"):
        read(tmp_path / "half.json")
    with pytest.raises(BadInput, match="No such file"):
        read(tmp_path / "none.json")
    with pytest.raises(BadInput, match="cannot be read"):
        read(tmp_path)
