"""`release/contents.py` names what is wrong with a release, `release/lowest.py` the versions to be tested."""

from __future__ import annotations

import io
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from release import contents, lowest

VERSION = tomllib.loads((contents.ROOT / "pyproject.toml").read_text())["project"]["version"]
CHANGELOG = f"# Changelog\n\n## {VERSION}\n\n## 0.0.1\n"


@pytest.fixture
def names() -> set[str]:
    paths = (path for package in contents.PACKAGES for path in (contents.ROOT / package).rglob("*"))
    files = {path.relative_to(contents.ROOT).as_posix() for path in paths if path.is_file()}
    return {name for name in files if "__pycache__" not in name} | {f"attend_jax-{VERSION}.dist-info/METADATA"}


def built(folder: Path, names: set[str], tops: set[str], version: str = VERSION) -> Path:
    """A wheel and an sdist of empty files."""
    with zipfile.ZipFile(folder / f"attend_jax-{version}-py3-none-any.whl", "w") as wheel:
        for name in sorted(names):
            wheel.writestr(name, "")
    with tarfile.open(folder / f"attend_jax-{version}.tar.gz", "w:gz") as sdist:
        for top in sorted(tops):
            sdist.addfile(tarfile.TarInfo(f"attend_jax-{version}/{top}"), io.BytesIO())
    return folder


def test_what_is_released_is_accepted(tmp_path: Path, names: set[str]) -> None:
    folder = built(tmp_path, names, contents.IN_SDIST | contents.PACKAGES)
    assert list(contents.complaints(folder, VERSION, CHANGELOG)) == []


@pytest.mark.parametrize(
    ("extra", "missing", "tops", "changelog", "words"),
    [
        ({"tests/test_docs.py"}, set(), set(), CHANGELOG, "the wheel holds attend_jax, attend_torch, parity, tests"),
        (set(), {"attend_jax/py.typed"}, set(), CHANGELOG, "no type information: attend_jax/py.typed"),
        (
            set(),
            {"parity/report/templates/report.html.j2"},
            set(),
            CHANGELOG,
            "lacks parity/report/templates/report.html.j2",
        ),
        (set(), set(), {"tests"}, CHANGELOG, "the sdist lacks tests"),
        (set(), set(), set(), "## 9.9.9\n", "CHANGELOG.md's newest version is 9.9.9"),
    ],
)
def test_a_fault_is_named(
    tmp_path: Path, names: set[str], extra: set[str], missing: set[str], tops: set[str], changelog: str, words: str
) -> None:
    assert missing <= names
    folder = built(tmp_path, (names | extra) - missing, (contents.IN_SDIST | contents.PACKAGES) - tops)
    assert words in "\n".join(contents.complaints(folder, VERSION, changelog))


def test_another_version_in_the_names_is_named(tmp_path: Path, names: set[str]) -> None:
    folder = built(tmp_path, names, contents.IN_SDIST | contents.PACKAGES, version="9.9.9")
    assert "expected attend_jax-" in "\n".join(contents.complaints(folder, VERSION, CHANGELOG))


def test_the_lowest_versions_are_those_that_are_declared() -> None:
    project = tomllib.loads((contents.ROOT / "pyproject.toml").read_text())["project"]
    pins = lowest.pins(project)
    assert {"numpy==2.0", "jax==0.10.2", "torch==2.10"} <= set(pins)
    with pytest.raises(SystemExit, match="expected NAME>=VERSION, got einops"):
        lowest.pins(project | {"dependencies": ["numpy>=2.0", "einops"]})
