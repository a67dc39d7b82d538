"""From an object in this process to the SPEC by which a worker, a process of its own, finds it again."""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from parity.errors import BadInput
from parity.pairs.pair import Pair

REMEDY = (
    "the modules are made in processes of their own, which find it by name: define it at the top of a module or of a "
    "script, not in a function, a list or a notebook"
)


def spec_of(pair: Pair) -> str:
    """FILE.py:NAME or MODULE:NAME of a pair that stands at the top level of a module.

    Raises:
      BadInput: it stands nowhere, because it is a local variable or was typed into an interpreter.
    """
    # Of several modules that hold it, the one that wrote its functions, else the last: importers come before the
    # imported in sys.modules.
    wrote = {getattr(function, "__module__", None) for function in (pair.torch, pair.flax)}
    places = sorted(_places(pair), key=lambda place: place[0].__name__ in wrote)
    if not places:
        raise BadInput(f"this Pair stands at the top of no imported module; {REMEDY}. Or give its SPEC, FILE.py:NAME")
    module, name = places[-1]
    return f"{_place(module)}:{name}"


def name_of(target: Any) -> str:
    """MODULE:NAME of a class or function.

    >>> name_of(Pair)
    'parity.pairs.pair:Pair'

    Raises:
      BadInput: a worker could not find it by that name.
    """
    name, module = getattr(target, "__qualname__", None), sys.modules.get(getattr(target, "__module__", ""))
    found: Any = module
    for part in (name or "").split("."):
        found = getattr(found, part, None)
    if module is None or found is not target:
        raise BadInput(f"{target!r} is no class or function at the top of an imported module; {REMEDY}")
    known = _file(module).stem if module.__name__ == "__main__" and _file(module) else module.__name__
    if not _importable(known):
        raise BadInput(
            f"{name} stands in module {known!r}, which another process cannot import by that name; move it to a "
            "module on the path, or add its folder to the path"
        )
    return f"{known}:{name}"


def _places(pair: Pair) -> list[tuple[ModuleType, str]]:
    """Every module that is imported and holds the pair, and its name there."""
    modules = [module for module in list(sys.modules.values()) if isinstance(module, ModuleType)]
    return [
        (module, name)
        for module in dict.fromkeys(modules)
        for name, value in list(vars(module).items())
        if value is pair and _file(module)
    ]


def _place(module: ModuleType) -> str:
    """A file is found from anywhere; but one in a package may import its neighbours relatively, and needs its name."""
    path = _file(module)
    spec = module.__spec__
    name = spec.name if spec else module.__name__
    if (path.parent / "__init__.py").exists() and _importable(name):
        return name
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _file(module: ModuleType) -> Path:
    """The module's source; an empty path, which is no file, where there is none."""
    path = Path(getattr(module, "__file__", None) or "")
    return path.resolve() if path.suffix == ".py" and path.exists() else Path()


def _importable(name: str) -> bool:
    """Whether a fresh process with our path, which looks in the current folder as well, has the module's package."""
    return PathFinder.find_spec(name.partition(".")[0], [str(Path.cwd()), *sys.path]) is not None
