"""From `--pair` to pairs: MODULE:NAME, a file's path with :NAME or without, a glob over files, or a folder with
`parity_*.py` in it."""

from __future__ import annotations

import difflib
import glob
import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

from parity.errors import BadInput
from parity.pairs.pair import Pair
from parity.spec import import_module, imported

PATTERN = "parity_*.py"


def named(text: str) -> list[str]:
    """Whole SPECs of every pair that `--pair TEXT` means, without importing anything but to find names.

    Raises:
      BadInput: there is none.
    """
    place, colon, name = text.rpartition(":")
    if not colon:
        place, name = text, ""
    files = _files(place, name)
    if files is not None:
        return [f"{file}:{found}" for file in files for found in _names(str(file))]
    if name:
        return [f"{place}:{name}"]
    return [f"{place}:{found}" for found in _names(place)]


def _files(place: str, name: str) -> list[Path] | None:
    """Those of a folder or a glob; None if it is neither."""
    path = Path(place)
    if path.is_dir():
        files, missing = sorted(path.glob(PATTERN)), f"there is no {PATTERN} in the folder {path}"
    elif not name and not path.exists() and glob.escape(place) != place:
        files, missing = sorted(map(Path, glob.glob(place))), "that glob matches no file"
    else:
        return None
    if not files:
        raise BadInput(f"--pair {place}: {missing}")
    return files


def whole(text: str) -> str | None:
    """The SPEC, if `--pair TEXT` is one and names a single pair."""
    place, _, name = text.rpartition(":")
    return text if place and name and not Path(text).is_dir() else None


def _names(place: str) -> list[str]:
    found = [name for name, value in vars(_module(place)).items() if isinstance(value, Pair)]
    if not found:
        raise BadInput(f"--pair {place}: it holds no parity.Pair at its top level")
    return found


def load(spec: str) -> Pair:
    """The pair that a whole SPEC names.

    Raises:
      BadInput: there is no such pair, or its file cannot be imported: then with the traceback from there on.
    """
    place, _, name = spec.rpartition(":")
    module = _module(place)
    pair = getattr(module, name, None)
    if not isinstance(pair, Pair):
        there = [key for key, value in vars(module).items() if isinstance(value, Pair)]
        near = difflib.get_close_matches(name, there, n=3) or there[:3]
        hint = f"; it has {', '.join(near)}" if near else ", nor any other"
        raise BadInput(f"--pair {spec}: there is no parity.Pair {name!r} in it{hint}")
    return pair


def _module(place: str) -> ModuleType:
    if place.endswith(".py") or os.sep in place:
        return _from_file(Path(place))
    return import_module(place)


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise BadInput(f"--pair: there is no file {path}")
    name = f"_parity_pair_{path.stem}"
    where = importlib.util.spec_from_file_location(name, path)
    assert where is not None
    assert where.loader is not None
    module = importlib.util.module_from_spec(where)
    sys.modules[name] = module  # dataclasses and pickle look a class's module up
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    with imported(str(path)):
        where.loader.exec_module(module)
    return module
