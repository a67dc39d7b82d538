"""The site of docs/: it builds without a warning, needs no network to be read, and says so when a link is dead."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PARTS = ("mkdocs.yml", "docs", "README.md", "CHANGELOG.md", "examples", "attend_jax", "attend_torch", "parity")


def build(folder: Path) -> subprocess.CompletedProcess[str]:
    """What `make docs` does."""
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": ""}
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(folder / "site")]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, timeout=120)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, tmp_path / part)
        else:
            shutil.copy(ROOT / part, tmp_path / part)
    return tmp_path


def test_it_builds_and_needs_no_network(copy: Path) -> None:
    done = build(copy)
    assert done.returncode == 0, done.stdout + done.stderr
    texts = {path: path.read_text() for path in (copy / "site").rglob("*.*") if path.suffix in (".html", ".css")}
    assert len(texts) > 15
    # What a page would fetch: not a link that a reader may follow.
    fetched = re.compile(r"""(?:src=|<link[^>]*href=|url\(|@import )["']?((?:https?:)?//[^"')\s]+)""")
    assert {path.name: found for path, text in texts.items() if (found := fetched.findall(text))} == {}
    index = (copy / "site/index.html").read_text()
    assert "Watch the proof" in index  # README is the first page
    assert 'href="source/examples/parity_blocks.py.html"' in (copy / "site/pairs.html").read_text()
    # A docstring's example is code in the reference, not a quotation.
    assert "<blockquote>" not in (copy / "site/reference/attend_jax.html").read_text()


# (page, what is appended to it, what must be said of it). The last two end the build at once.
FAULTS = (
    ("docs/trace.md", "[no page](nowhere.md)", "nowhere.md"),
    ("docs/trace.md", "[no heading](pairs.md#not-there)", "#not-there"),
    ("README.md", "[no heading](docs/pairs.md#neither)", "#neither"),
    ("docs/page.md", "# In no menu", "page.md"),
    ("docs/trace.md", "[no file](../examples/nowhere.py)", "no file of the repository"),
    ("docs/reference/parity.md", "::: parity.nowhere", "parity.nowhere"),
)


@pytest.mark.parametrize("faults", [FAULTS[:-2], FAULTS[-2:-1], FAULTS[-1:]], ids=["warnings", "source", "reference"])
def test_it_refuses(copy: Path, faults: tuple[tuple[str, str, str], ...]) -> None:
    for page, text, _ in faults:
        with (copy / page).open("a") as file:
            file.write(f"\n{text}\n")
    done = build(copy)
    assert done.returncode != 0
    assert [complaint for *_, complaint in faults if complaint not in done.stdout + done.stderr] == []
