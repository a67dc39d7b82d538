"""From `[torch:|jax:]MODULE:NAME` to something that can be called, and what it accepts. No framework is imported here.

Runs in a worker, because importing MODULE imports its framework.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

from parity.cases import Case
from parity.errors import BadInput

FRAMEWORKS = ("torch", "jax")
# Whose frames are of no use to somebody whose module cannot be imported.
_OURS = (os.path.dirname(__file__) + os.sep, os.path.dirname(importlib.__file__) + os.sep, "<frozen importlib")
TRAINING, EVALUATION = ("train", "training", "is_training"), ("deterministic", "inference")
RNG_NAMES = ("dropout_rng", "rng", "key", "dropout_key")
# Where a class inherits from, as (root package, class name) -> what kind of module it is.
_BASES = {("torch", "Module"): "torch", ("flax.nnx", "Module"): "nnx", ("flax.linen", "Module"): "linen"}


class BadSpec(BadInput):
    """The SPEC names nothing that can be judged; the message says what was expected, what came, what to do."""


@dataclasses.dataclass(frozen=True)
class Spec:
    """What the user typed, taken apart. `framework` is None where it is to be found out."""

    framework: str | None
    module: str
    name: str

    @classmethod
    def parse(cls, text: str) -> Spec:
        """
        >>> Spec.parse("jax:my.port:Attend")
        Spec(framework='jax', module='my.port', name='Attend')
        """
        head, _, rest = text.partition(":")
        framework = head if head in FRAMEWORKS and ":" in rest else None
        module, colon, name = (rest if framework else text).partition(":")
        if not (module and colon and name) or ":" in name:
            raise BadSpec(f"expected [torch:|jax:]MODULE:NAME, for example my_package.attention:Attend; got {text!r}")
        return cls(framework, module, name)

    def __str__(self) -> str:
        return f"{self.module}:{self.name}"


@dataclasses.dataclass(frozen=True)
class Interface:
    """How a target is called, and which arguments it takes, by name.

    `kind` is "torch", "nnx", "linen" (classes of these), "class" (any other class) or "function" (an instance too).
    `corners` says that it tells causal's strings apart (S10), `groups` that it does grouped heads (S13).
    """

    framework: str
    kind: str
    constructor: frozenset[str]
    call: frozenset[str]
    corners: bool = True
    groups: bool = True

    def missing(self, case: Case) -> str | None:
        """Why this target cannot run the case, or None."""
        needs = {self._spelling(name) for name in case.needs}
        if self.kind == "function" and "flash" not in self.call and "flash" in needs:
            needs.discard("flash")  # a function says with `causal` what a module's flash decides
        lacking = sorted(needs - self.constructor - self.call)
        if lacking:
            return f"does not accept {', '.join(lacking)}"
        if isinstance(self._causal(case), str) and not self.corners:
            return "does not tell causal='upper_left' from causal='lower_right'"
        if case.grouped and not self.groups:
            return "does not do grouped heads (S13)"
        needs_rng = case.kind == "dropout" and self.framework == "jax" and self.kind != "linen"
        if needs_rng and not (self.rngs or {*RNG_NAMES, "rngs"} & self.constructor or "rngs" in self.call):
            return f"accepts no rng ({', '.join(RNG_NAMES)} or rngs)"
        return None

    @property
    def rngs(self) -> frozenset[str]:
        """The names by which the call takes an rng; the `key` that stands beside a `query` is none."""
        tensors = {"key"} if "query" in self.call else set()
        return self.call & set(RNG_NAMES) - tensors

    def defaults(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """What a constructor gets: of dropout, flash and causal and of what is given, the names it knows."""
        every = {"dropout": 0.0, "flash": False, "causal": False} | dict(given)
        every = {self._spelling(name): value for name, value in every.items()}
        return {name: value for name, value in every.items() if name in self.constructor}

    def flags(self, train: bool) -> dict[str, bool]:
        """The keywords of the call that say training or evaluation, in all the spellings that people use."""
        found = {name: train for name in TRAINING if name in self.call}
        return found | {name: not train for name in EVALUATION if name in self.call}

    def without_dropout(self, keywords: Mapping[str, Any]) -> dict[str, Any]:
        """The keywords of a call in evaluation: a function has no other way to be told."""
        return {name: 0.0 if name in ("dropout", "dropout_rate") else value for name, value in keywords.items()}

    def arguments(self, case: Case, implementation: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
        """The keyword arguments that are no tensors: for the constructor, and for the call."""
        given = {"dropout": 0.0, "flash": False, "causal": False} | dict(case.arguments)
        given["causal"] = self._causal(case)
        if implementation is not None:
            given["implementation"] = implementation
        given = {self._spelling(name): value for name, value in given.items()}
        constructor = {name: value for name, value in given.items() if name in self.constructor}
        call = {name: value for name, value in given.items() if name in self.call and name not in constructor}
        return constructor, call

    def _spelling(self, name: str) -> str:
        if name == "dropout" and "dropout" not in self.constructor | self.call:
            return "dropout_rate"
        return name

    def _causal(self, case: Case) -> bool | str:
        causal: bool | str = case.arguments.get("causal", False)
        if causal is True and case.arguments.get("flash") and self.kind == "function" and "flash" not in self.call:
            return "upper_left"
        return causal


def load(spec: Spec) -> Any:
    """Import the module and take NAME out of it, or raise BadSpec in words."""
    module = import_module(spec.module)
    target: Any = module
    for part in spec.name.split("."):
        if not hasattr(target, part):
            near = difflib.get_close_matches(part, [n for n in dir(target) if not n.startswith("_")], n=3)
            hint = f"; did you mean {', '.join(near)}?" if near else ""
            raise BadSpec(f"module {spec.module!r} has no {part!r}{hint}")
        target = getattr(target, part)
    if not callable(target):
        raise BadSpec(f"{spec} is a {type(target).__name__}; expected a class like Attend or a function like attend")
    return target


def import_module(name: str) -> ModuleType:
    """Import a module from the path or the current folder, or raise BadSpec in words."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    with imported(name):
        return importlib.import_module(name)


@contextlib.contextmanager
def imported(name: str) -> Iterator[None]:
    """What goes wrong while a user's module is imported becomes BadSpec: their traceback, not ours."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(error.name + ".")):
            raise BadSpec(f"there is no module {error.name!r} on the path or in {os.getcwd()}") from None
        needed = f"module {name!r} needs {error.name!r}, which is not installed"
        raise BadSpec(f"importing {name!r} failed:\n{_theirs(error)}{needed}") from None
    except Exception as error:
        raise BadSpec(f"importing {name!r} failed:\n{_theirs(error)}") from None


def _theirs(error: Exception) -> str:
    """The traceback without the frames of parity and of importlib, before and after the user's own."""
    shown = traceback.TracebackException.from_exception(error)
    own = [frame for frame in shown.stack if not frame.filename.startswith(_OURS)]
    shown.stack = traceback.StackSummary.from_list(own)
    return "".join(shown.format())


def interface(target: Any, framework: str) -> Interface:
    """What the target accepts, from its signatures."""
    kind = module_kind(target)
    if not isinstance(target, type) and module_kind(type(target)):
        target_call = getattr(type(target), "forward" if module_kind(type(target)) == "torch" else "__call__")
        return Interface(framework, "function", frozenset(), frozenset(_names(target_call)))
    if isinstance(target, type):
        # Not the class itself: nnx's metaclass hides its signature.
        constructor = _names(getattr(target, "__init__"))  # noqa: B009
        call = _names(getattr(target, "forward" if kind == "torch" else "__call__"))
        # A bare **kwargs is taken at its word for the three that every Attend has.
        if "**" in constructor:
            constructor |= {"dropout", "flash", "causal"}
        return Interface(framework, kind or "class", frozenset(constructor - {"**", "self"}), frozenset(call))
    return Interface(framework, "function", frozenset(), frozenset(_names(target)))


def module_kind(target: Any) -> str | None:
    """ "torch", "nnx" or "linen" by base class, else None."""
    if isinstance(target, type):
        for base in target.__mro__:
            for (package, name), kind in _BASES.items():
                if base.__name__ == name and (base.__module__ + ".").startswith(package + "."):
                    return kind
    return None


def annotated_framework(target: Any) -> str | None:
    """The framework that the annotations of the call speak of, if just one."""
    function = target.__call__ if isinstance(target, type) else target
    annotations = getattr(inspect.unwrap(function), "__annotations__", {})
    text = " ".join(value if isinstance(value, str) else f"{value!r}" for value in annotations.values()).lower()
    text = text.replace("jaxtyping", "")  # it annotates torch's tensors as well
    said = {"torch": "torch" in text, "jax": "jax" in text or "jnp" in text}
    found = [framework for framework, mentioned in said.items() if mentioned]
    return found[0] if len(found) == 1 else None


def _names(function: Any) -> set[str]:
    try:
        parameters: Mapping[str, inspect.Parameter] = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {"**"}
    names = {name for name, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return names | ({"**"} if any(p.kind is p.VAR_KEYWORD for p in parameters.values()) else set())
