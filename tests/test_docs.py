"""What README and docs say runs: every snippet of Python, every command, every link."""

from __future__ import annotations

import doctest
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer

from parity.cli import app

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(
    r"`([^`\n]+(?:\n[^`\n]+)?)`|^ *(?:\$ |- run: |- )?((?:\.venv/bin/)?(?:parity|make) .*[^:])$", re.MULTILINE
)
_COMMAND = re.compile(r"(?:\.venv/bin/)?(parity|make) +([a-z][\w-]*)(.*)", re.DOTALL)


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def python_snippets(page: Path) -> list[str]:
    return [code for language, code in _FENCE.findall(page.read_text()) if language == "python"]


def commands(program: str) -> list[tuple[str, str, str]]:
    """(page, subcommand, the rest) of each `parity ...` or `make ...` that stands as code."""
    texts = [(name(page), re.sub(r"^```.*$", "", page.read_text(), flags=re.MULTILINE)) for page in PAGES]
    codes = [(page, inline or line) for page, text in texts for inline, line in _CODE.findall(text)]
    found = [(page, match) for page, code in codes if (match := _COMMAND.fullmatch(code))]
    return [(page, match[2], match[3]) for page, match in found if match[1] == program]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_snippets_print_what_they_say(page: Path) -> None:
    results = doctest.testfile(str(page), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert results.failed == 0


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists() and link != "changelog.md"] == []


def test_the_pages_hold_snippets() -> None:
    # Were the snippets not found, the first test would pass by running nothing.
    examples = [doctest.DocTestParser().get_examples(page.read_text()) for page in PAGES]
    assert sum(map(len, examples)) > 80


@pytest.mark.parametrize("rule", [f"S{n}" for n in range(1, 18)])
def test_every_rule_has_an_example(rule: str) -> None:
    sections = re.split(r"^## ", (ROOT / "docs/semantics.md").read_text(), flags=re.MULTILINE)
    (section,) = [text for text in sections if text.startswith(f"{rule}:")]
    assert any(example.want for example in doctest.DocTestParser().get_examples(section))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_that_is_no_doctest_is_a_test_that_passes(page: Path, tmp_path: Path) -> None:
    """What a user writes for pytest, in a project like the one that the page describes."""
    snippets = python_snippets(page)
    if not snippets:
        return
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "models").mkdir()
    (tmp_path / "models/parity_head.py").write_text(head())
    (tmp_path / "my_port").mkdir()
    (tmp_path / "my_port/attention.py").write_text("from attend_jax import Attend\n")
    for n, code in enumerate(snippets):
        (tmp_path / f"test_{n}.py").write_text(code)
    few = "head or S3"  # all are collected
    run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", few, "--rootdir", "."]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"[1-9]\d* passed", done.stdout), done.stdout


def head() -> str:
    """The pair that docs/pairs.md writes, as the file that it tells of."""
    examples = doctest.DocTestParser().get_examples((ROOT / "docs/pairs.md").read_text())
    end = next(n for n, example in enumerate(examples) if example.source.startswith("head = "))
    return "".join(example.source for example in examples[: end + 1])


def test_the_commands_of_parity_and_their_options_exist() -> None:
    group = typer.main.get_command(app)
    checked = 0
    for page, subcommand, rest in commands("parity"):
        assert subcommand in group.commands, f"{page}: parity {subcommand}"
        known = {option for parameter in group.commands[subcommand].params for option in parameter.opts} | {"--help"}
        for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", rest.split("#")[0]):
            assert option in known, f"{page}: parity {subcommand} {option}"
            checked += 1
    assert checked > 70


def test_the_targets_of_make_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = commands("make")
    assert len(targets) > 5
    assert [(page, target) for page, target, _ in targets if f"\n{target}:" not in makefile] == []


def test_the_extras_that_are_named_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {extra for page in PAGES for extra in re.findall(r"attend-jax\[(\w+)\]", page.read_text())}
    assert named <= set(extras)
    assert "jax" in named
