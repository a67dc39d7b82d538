"""The HTML report as a text: complete without scripts and network, and safe whatever the words."""

from __future__ import annotations

import html.parser
import json
import re

import pytest

from parity.report.html import as_html, write
from parity.report.json import as_json
from parity.report.words import by_attention
from parity.results import STATUSES, Report
from tests.parity.report.samples import HOSTILE, UNPRINTABLE, report, result, thousand


class Page(html.parser.HTMLParser):
    """The elements of a page with their attributes, its texts, and its data."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self._open = [], [], []
        self.scripts = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._open.append(tag)

    def handle_data(self, data):
        (self.scripts if self._open and self._open[-1] in ("script", "style") else self.texts).append(data)

    def handle_endtag(self, tag):
        while self._open and self._open.pop() != tag:
            pass

    @property
    def words(self):
        return " ".join("".join(self.texts).split())

    def tags(self, name):
        return [attributes for tag, attributes in self.elements if tag == name]


@pytest.mark.parametrize(
    ("statuses", "words"),
    [
        (["passed"], "Passed Candidate and truth agree."),
        (["passed", "failed"], "Mismatch The candidate is not the function"),
        (["failed", "error"], "Error A case could not be judged"),
        (["passed", "inconclusive"], "Not proved Something could not be decided."),
        (["skipped"], "Not proved Nothing was compared."),
        ([], "Not proved Nothing was compared."),
    ],
)
def test_the_verdict_is_the_first_word(statuses, words):
    page = Page(as_html(report(*statuses)))
    assert words in page.words.split("Skip to the cases", 1)[1][:150]


def test_an_interrupted_run_and_an_empty_shard():
    assert "Interrupted Not all cases were judged" in Page(as_html(report("passed", interrupted=True))).words
    assert "Passed This part has no cases." in Page(as_html(report(empty_shard=True))).words


def test_without_scripts_there_is_a_table_the_worst_first():
    page = Page(as_html(report(*STATUSES)))
    assert [row["data-status"] for row in page.tags("tr") if "data-status" in row] == [
        "error", "failed", "inconclusive", "passed", "skipped",
    ]  # fmt: skip
    for words in ("causal is aligned to the other corner", "parity run --case S1,i=1", "python3.11", "! 1 error"):
        assert words in page.words


def test_the_data_are_those_of_the_json_report():
    found = thousand()
    page = Page(as_html(found))
    data = json.loads(next(script for script in page.scripts if script.strip().startswith("[")))
    assert data[0].keys() == as_json(found)["cases"][0].keys()
    assert [case["name"] for case in data] == [case.name for case in by_attention(found)]
    assert data[500]["quantities"][0]["picture"]["grid"]


@pytest.mark.parametrize("words", [HOSTILE, UNPRINTABLE])
def test_hostile_words_make_no_element(tmp_path, words):
    def page(text):
        fields = dict.fromkeys(("cause", "reason", "command", "candidate", "reference", "device"), text)
        found = [result(status, text, notes=(text,), **fields) for status in STATUSES]
        write(Report({text: text}, tuple(found)), tmp_path / "page.html")
        return Page((tmp_path / "page.html").read_text(encoding="utf-8"))

    assert page(words).elements == page("harmless").elements


def test_nothing_comes_from_a_network():
    text = as_html(report("failed"))
    page = Page(text)
    (policy,) = [meta["content"] for meta in page.tags("meta") if "http-equiv" in meta]
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy.split("script-src")[1]
    assert not any("src" in attributes for _, attributes in page.elements)
    assert [attributes["href"] for _, attributes in page.elements if "href" in attributes] == ["data:,", "#cases"]
    assert set(re.findall(r"https?://[^\"]*", text)) == {"http://www.w3.org/2000/svg"}


def test_landmarks_and_labels():
    page = Page(as_html(report("failed", "passed")))
    tags = [tag for tag, _ in page.elements]
    assert {"header", "main", "footer", "section", "caption", "fieldset", "legend"} <= set(tags)
    assert tags.count("h1") == 1
    ids = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    named = [attributes["aria-labelledby"] for _, attributes in page.elements if "aria-labelledby" in attributes]
    assert named
    assert set(named) <= ids
    assert all("scope" in attributes for attributes in page.tags("th"))
    assert page.tags("html")[0]["lang"] == "en"
