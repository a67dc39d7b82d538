"""What wheel and sdist hold: `contents.py FOLDER` exits 1 with the reasons if it is not what is released."""

from __future__ import annotations

import re
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = {"attend_jax", "attend_torch", "parity"}
# A user of the sdist can test it, and build the docs.
IN_SDIST = {
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
    "Makefile",
    "constraints.txt",
    "mkdocs.yml",
    "tests",
    "docs",
    "examples",
}


def complaints(folder: Path, version: str, changelog: str) -> Iterator[str]:
    """The version is that of pyproject.toml, in the names of both files and as the newest of CHANGELOG.md."""
    (newest, *_) = re.findall(r"^## (\S+)", changelog, re.MULTILINE)
    if newest != version:
        yield f"CHANGELOG.md's newest version is {newest}, pyproject.toml's is {version}: bring them together"
    expected = {f"attend_jax-{version}-py3-none-any.whl", f"attend_jax-{version}.tar.gz"}
    built = {path.name for path in folder.iterdir()}
    if built != expected:
        yield f"expected {', '.join(sorted(expected))} in {folder}; got {', '.join(sorted(built))}"
        return
    wheel, sdist = sorted(expected)
    with zipfile.ZipFile(folder / wheel) as archive:
        yield from in_wheel(archive.namelist())
    with tarfile.open(folder / sdist) as archive:
        held = {name.split("/")[1] for name in archive.getnames() if "/" in name}
    if missing := (IN_SDIST | PACKAGES) - held:
        yield f"the sdist lacks {', '.join(sorted(missing))}"


def in_wheel(names: Iterable[str]) -> Iterator[str]:
    """The three packages with their type information and templates, and nothing beside them."""
    names = set(names)
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    if tops != PACKAGES:
        yield f"the wheel holds {', '.join(sorted(tops))}; expected {', '.join(sorted(PACKAGES))}"
    here = {path.relative_to(ROOT).as_posix() for package in PACKAGES for path in (ROOT / package).rglob("*")}
    files = {name for name in here if (ROOT / name).is_file() and "__pycache__" not in name}
    if missing := files - names:
        yield f"the wheel lacks {', '.join(sorted(missing))}"
    if untyped := {f"{package}/py.typed" for package in PACKAGES} - names:
        yield f"the wheel has no type information: {', '.join(sorted(untyped))}"


if __name__ == "__main__":
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = list(complaints(Path(sys.argv[1]), project["version"], (ROOT / "CHANGELOG.md").read_text()))
    sys.exit("\n".join(found) if found else None)
