"""The recipes of docs/contributing.md: each diff applies to the code as it is; its command then prints what it says."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PARTS = ("attend_jax", "attend_torch", "parity", "pyproject.toml")
_RECIPE = re.compile(
    r"^## (Add [^\n]*)\n.*?^```diff\n(.*?)^```\n+```sh\n\.venv/bin/parity ([^\n]*)\n```\n+    ([^\n]*)$", re.M | re.S
)
RECIPES = {title: rest for title, *rest in _RECIPE.findall((ROOT / "docs/contributing.md").read_text())}


def test_they_are_found() -> None:
    assert list(RECIPES) == ["Add a case", "Add a mutant", "Add an implementation"]


@pytest.mark.parametrize("title", RECIPES)
def test_it_works(title: str, tmp_path: Path) -> None:
    diff, command, printed = RECIPES[title]
    for part in PARTS:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, tmp_path / part)
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "COLUMNS": "200", "GIT_CEILING_DIRECTORIES": str(tmp_path)}
    applied = subprocess.run(
        ["git", "apply"], cwd=tmp_path, input=diff, capture_output=True, text=True, env=environment
    )  # fmt: skip
    assert applied.returncode == 0, applied.stderr
    parity = [sys.executable, "-m", "parity", *shlex.split(command)]
    done = subprocess.run(parity, cwd=tmp_path, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert _words(printed) in _words(done.stdout), done.stdout


def _words(text: str) -> str:
    """Without the numbers that another machine prints otherwise, and the spaces of a table."""
    return " ".join(re.sub(r"\d+(\.\d+)? (s|MiB)|\d+\.\d+", "", text).split())
