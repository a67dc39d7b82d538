"""What README and docs/ci.md give to be copied: tests that pytest collects, and files that parse."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[3]
README, CI = (ROOT / "README.md").read_text(), (ROOT / "docs" / "ci.md").read_text()
HEAD = """
from parity_faults import pair
head = pair()
"""


def snippet(page, words):
    """The one block of Python that holds the words."""
    (found,) = [block for block in re.findall(r"```python\n(.*?)```", page, re.S) if words in block]
    return found


@pytest.fixture
def collected(pytester, monkeypatch):
    """The names of the tests in a file, as pytest finds them in the folder of the test."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (ROOT, ROOT / "tests" / "parity" / "candidates"))))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    def call(test):
        pytester.makepyfile(test_port=test)
        ran = pytester.runpytest_subprocess("-p", "parity.pytest_plugin", "--collect-only", "-q")
        assert ran.ret == 0, str(ran.stdout)
        return [line.split("::")[1] for line in ran.outlines if "::" in line]

    return call


def test_the_snippet_of_readme_is_collected(collected, pytester):
    pytester.path.joinpath("examples").symlink_to(ROOT / "examples")
    names = collected(snippet(README, "pytest.mark.parity"))
    assert len(names) == 18 + 5
    assert {"test_the_port[S1]", "test_the_port[parity_blocks.mlp,b=2,n=17]"} <= set(names)


def test_the_snippet_of_the_recipes_is_collected(collected, pytester):
    pytester.mkdir("models").joinpath("parity_head.py").write_text(HEAD)
    names = collected(snippet(CI, "pytest.mark.parity"))
    blocks = [name for name in names if name.startswith("test_blocks")]
    assert blocks == ["test_blocks[parity_head.head,b=5]", "test_blocks[parity_head.head,b=5,dtype=bfloat16]"]
    assert len(names) == 2 + 18 + 1


def test_the_recipes_are_yaml():
    yaml = pytest.importorskip("yaml")
    github, gitlab = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", CI, re.S))
    assert set(github["jobs"]) == {"prove", "report"}
    assert gitlab["parity"]["parallel"] == 4
