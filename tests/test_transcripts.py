"""The transcripts of the docs: each `$ command` of an indented block runs, and prints what stands below it.

Numbers that a machine measures may be others; words, exit codes and counts of cases may not. `...` stands for anything.
"""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_docs import ROOT, head, python_snippets

PAGES = ("pairs", "trace", "goldens", "ci", "criterion")
_BLOCK = re.compile(r"^    \$ .*\n(?:    .*\n)*", re.MULTILINE)
_STEP = re.compile(r"^\$ (.*)\n((?:(?!\$ ).*\n?)*)", re.MULTILINE)
_MEASURED = re.compile(
    r"(?<![\w.,=-])\d[\d.,]*(?:e[+-]?\d+)?(?:s\b)?(?![\w.]|[ \]]*(?:passed|failed|skipped|inconclusive|error)\b)"
)
_FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def steps(page: str) -> list[tuple[str, str]]:
    """(command, what it prints) of a page of docs/."""
    blocks = _BLOCK.findall((ROOT / f"docs/{page}.md").read_text())
    return [step for block in blocks for step in _STEP.findall(re.sub(r"^    ", "", block, flags=re.MULTILINE))]


def agree(expected: str, printed: str) -> bool:
    expected, printed = (_MEASURED.sub("#", text.strip()) + "\n" for text in (expected, printed))
    return doctest.OutputChecker().check_output(expected, printed, _FLAGS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's project: a pair, tests, and what this repository has."""
    for name in ("docs", "examples", "tests"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "models").mkdir()
    for place in (tmp_path, tmp_path / "models"):
        (place / "parity_head.py").write_text(head())
    (tmp_path / "my_port").mkdir()
    (tmp_path / "my_port/attention.py").write_text("from attend_jax import Attend\n")
    (tmp_path / "test_port.py").write_text("\n".join(python_snippets(ROOT / "docs/ci.md")))
    return tmp_path


@pytest.mark.parametrize("page", PAGES)
def test_each_command_prints_what_the_page_says(page: str, folder: Path) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {
        "PATH": path, "PYTHONPATH": str(ROOT), "COLUMNS": "120", "NO_COLOR": "1",
        "PARITY_SPREADS_DIR": str(folder / "spreads"), "JAX_PLATFORMS": "cpu",
    }  # fmt: skip
    environment.pop("GITHUB_ACTIONS", None)
    for command, expected in steps(page):
        done = subprocess.run(
            ["bash", "-c", command], cwd=folder, env=environment, timeout=300, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert agree(expected, done.stdout), f"$ {command}\n{done.stdout}\nexpected:\n{expected}"


def test_they_are_found() -> None:
    assert {page: len(steps(page)) for page in PAGES} == {"pairs": 4, "trace": 2, "goldens": 6, "ci": 7, "criterion": 1}
    shown = " ".join(command for page in PAGES for command, _ in steps(page))
    for words in (
        "parity run --pair", "--timeout", "--dtype", "--json", "--junit", "--html", "--markdown", "--shard 1/2",
        "parity merge", "parity doctor --pair", "parity trace --pair", "parity record", "parity replay",
        "parity compare", "GITHUB_ACTIONS=true", "--parity-report", "-n 2",
    ):  # fmt: skip
        assert words in shown, words


@pytest.mark.parametrize(
    ("expected", "printed", "same"),
    [
        ("1 passed in 2.0 s, 30 MiB; 0.5", "1  passed in 31 s, 1,300 MiB; 1e-07\n", True),
        ("1 passed in 2.0 s", "2 passed in 2.0 s", False),
        ("3 passed in 8.75s", "3 passed in 10.1s", True),
        ("passed x,b=2 0.5", "passed x,b=3 0.5", False),
        ("a 0.5 agrees", "a 0.5 differs", False),
        ("a\n...\nb", "a\nwhatever\nb", True),
        ("", "a", False),
    ],
)
def test_what_may_differ_is_numbers(expected: str, printed: str, same: bool) -> None:
    assert agree(expected, printed) == same


def test_what_make_pairs_runs_is_shown() -> None:
    (recipe,) = re.findall(r"^pairs: .*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    lines = recipe.replace("$(BIN)", ".venv/bin").replace("$(PAIRS)", "--pair examples").splitlines()
    docs = "".join(page.read_text() for page in (ROOT / "docs").glob("*.md"))
    assert len(lines) == 3
    assert [line.strip() for line in lines if line.strip() not in docs] == []
