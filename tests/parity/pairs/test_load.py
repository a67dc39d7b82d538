"""Which pairs a `--pair` means, and what is shown of a file that cannot be imported: the user's lines, none of ours."""

from __future__ import annotations

import re

import pytest

from parity.errors import BadInput
from parity.pairs import load

PAIR = "from parity import Input, Pair\nhead = Pair(torch=lambda: None, flax=lambda: None, inputs={'x': Input('3')})\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    for place in ("one/parity_a.py", "one/parity_b.py", "one/other.py", "two/parity_a.py"):
        tmp_path.joinpath(place).parent.mkdir(exist_ok=True)
        tmp_path.joinpath(place).write_text(PAIR)
    return tmp_path


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("one", ["one/parity_a.py:head", "one/parity_b.py:head"]),
        ("one/parity_*.py", ["one/parity_a.py:head", "one/parity_b.py:head"]),
        ("*/parity_a.py", ["one/parity_a.py:head", "two/parity_a.py:head"]),
        ("one/other.py", ["one/other.py:head"]),
        ("one/other.py:head", ["one/other.py:head"]),
    ],
)
def test_what_a_folder_a_glob_and_a_file_mean(text, found):
    assert load.named(text) == found


def test_a_file_whose_name_looks_like_a_glob_is_that_file(folder):
    folder.joinpath("parity_[a].py").write_text(PAIR)
    assert load.named("parity_[a].py") == ["parity_[a].py:head"]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("text", "words"),
    [
        (".", "--pair .: there is no parity_*.py in the folder ."),
        ("three/*.py", "--pair three/*.py: that glob matches no file"),
        ("one/x.py", "--pair: there is no file one/x.py"),
    ],
)
def test_a_place_with_no_pair_is_said(text, words):
    with pytest.raises(BadInput, match=re.escape(words)):
        load.named(text)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("1 / 0", ['inner.py", line 1, in <module>', "ZeroDivisionError: division by zero"]),
        ("import nowhere", ['inner.py", line 1, in <module>', "needs 'nowhere', which is not installed"]),
        ("def f(:", ['inner.py", line 1\n', "SyntaxError: invalid syntax"]),
        ("import parity\nparity.Input('?')", ['inner.py", line 2, in <module>', "BadInput: an Input's axes are names"]),
    ],
    ids=["raises", "needs what is not there", "is no Python", "is told so by us"],
)
def test_of_a_file_that_does_not_import_the_users_lines_are_shown(folder, text, lines):
    folder.joinpath("inner.py").write_text(text)
    folder.joinpath("parity_outer.py").write_text("import inner\n")
    with pytest.raises(BadInput) as raised:
        load.named(str(folder / "parity_outer.py"))  # whole: Python keeps what it found in "."
    words = str(raised.value)
    assert [line for line in [*lines, 'parity_outer.py", line 1, in <module>'] if line not in words] == [], words
    assert re.search(r"parity/(spec|pairs/\w+)\.py|importlib", words) is None, words
