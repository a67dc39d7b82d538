"""A JSON report read back. What comes from a file is not trusted: an error names the field and what it should be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from parity.compare import Verdict
from parity.errors import BadInput
from parity.picture import Picture
from parity.report.json import SCHEMA, as_json
from parity.results import STATUSES, CaseResult, Report

T = TypeVar("T")
_WORDS = {str: "text", int: "a whole number", bool: "true or false", list: "a list", dict: "an object"}
_NUMBERS = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}


def read(path: Path) -> Report:
    """The report in a file.

    Raises:
      BadInput: it cannot be read, is no report of `parity run`, is of another schema, or was damaged.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path} is not JSON, or not all of it: {error}") from None
    try:
        return from_json(document)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None


def from_json(document: Any) -> Report:
    """The report of which `as_json` made this document; its cases have no tensors any more (`case` is None)."""
    if not isinstance(document, dict) or "schema" not in document or "kind" in document or "cases" not in document:
        raise BadInput("this is no report of `parity run --json`")
    if document["schema"] != SCHEMA:
        raise BadInput(
            f"the report is of schema {document['schema']!r}; this parity reads {SCHEMA}: update the older one"
        )
    fields = _Fields(document, "")
    cases = fields.each("cases", _case)
    report = Report(
        environment=_texts(fields, "environment"),
        results=cases,
        seconds=fields.number("seconds"),
        peak_mib=fields.take("peak_mib", int),
        interrupted=fields.take("interrupted", bool),
        # The one thing that is not written: it shows in the exit code.
        empty_shard=not cases and document.get("exit_code") == 0,
    )
    again = as_json(report)
    for name in ("summary", "exit_code"):
        if document.get(name) != again[name]:
            raise BadInput(f"its `{name}` is {document.get(name)!r}, and its cases make it {again[name]!r}")
    return report


class _Fields:
    """An object of the document, and the words for where it is."""

    def __init__(self, found: Any, place: str) -> None:
        self._place = place
        if not isinstance(found, dict):
            raise BadInput(f"`{place.rstrip('.')}` must be an object; got {found!r:.40}")
        self._found = found

    def take(self, name: str, kind: type[T], default: T | None = None) -> T:
        value = self._found.get(name, default)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            self.refuse(name, _WORDS[kind], value)
        return value

    def number(self, name: str) -> float:
        value = self.optional_number(name)
        if value is None:
            self.refuse(name, "a number", value)
        return value

    def optional_number(self, name: str) -> float | None:
        value = self._found.get(name)
        if isinstance(value, str) and value in _NUMBERS:
            return _NUMBERS[value]
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            self.refuse(name, "a number", value)
        return value

    def each(self, name: str, read: Callable[[_Fields], T]) -> tuple[T, ...]:
        """A list of objects."""
        items = self.take(name, list)
        return tuple(read(_Fields(item, f"{self._place}{name}[{n}].")) for n, item in enumerate(items))

    def listed(self, name: str, kind: type[T], default: list[T] | None = None) -> tuple[T, ...]:
        """A list of texts or whole numbers."""
        items = self.take(name, list, default)
        for item in items:
            if not isinstance(item, kind) or isinstance(item, bool):
                self.refuse(name, f"a list, each {_WORDS[kind]}", items)
        return tuple(items)

    def null(self, name: str) -> bool:
        return name in self._found and self._found[name] is None

    def object(self, name: str) -> _Fields | None:
        return _Fields(self._found[name], f"{self._place}{name}.") if name in self._found else None

    def refuse(self, name: str, expected: str, value: Any) -> NoReturn:
        raise BadInput(f"`{self._place}{name}` must be {expected}; got {value!r:.40}")


def _case(fields: _Fields) -> CaseResult:
    return CaseResult(
        name=fields.take("name", str),
        status=_status(fields),
        reason=fields.take("reason", str),
        seed=fields.take("seed", int),
        dtype=fields.take("dtype", str),
        implementation=fields.take("implementation", str),
        device=fields.take("device", str),
        reference=fields.take("reference", str),
        candidate=fields.take("candidate", str),
        command=fields.take("command", str),
        verdicts=fields.each("quantities", _verdict),
        cause=fields.take("cause", str),
        seconds=fields.number("seconds"),
        notes=fields.listed("notes", str, []),
    )


def _verdict(fields: _Fields) -> Verdict:
    index = None if fields.null("worst_index") else fields.listed("worst_index", int)
    picture = fields.object("picture")
    return Verdict(
        fields.take("quantity", str), _status(fields), fields.take("reason", str, ""),
        max_error=fields.number("max_error"), reference_error=fields.number("reference_error"),
        bound_ratio=fields.number("bound_ratio"), worst_index=index,
        candidate=fields.optional_number("candidate"), reference=fields.optional_number("reference"),
        truth=fields.optional_number("truth"), bound=fields.optional_number("bound"),
        mismatched=fields.take("mismatched", int, 0), elements=fields.take("elements", int, 0),
        picture=None if picture is None else _picture(picture),
    )  # fmt: skip


def _picture(fields: _Fields) -> Picture:
    histogram = fields.take("histogram", dict)
    for label, count in histogram.items():
        if isinstance(count, bool) or not isinstance(count, int):
            fields.refuse(f"histogram.{label}", "a whole number", count)
    return Picture(
        fields.listed("grid", str), fields.take("groups", int), fields.take("folded", str), tuple(histogram.items())
    )


def _status(fields: _Fields) -> str:
    status = fields.take("status", str)
    if status not in STATUSES:
        fields.refuse("status", f"one of {', '.join(STATUSES)}", status)
    return status


def _texts(fields: _Fields, name: str) -> dict[str, str]:
    found = fields.take(name, dict)
    for key, value in found.items():
        if not isinstance(value, str):
            fields.refuse(f"{name}.{key}", "text", value)
    return dict(found)
