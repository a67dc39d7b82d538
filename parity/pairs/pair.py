"""What a user writes: how to make the two modules, what to feed them, and what differs on purpose."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from parity.errors import BadInput

DTYPES = ("float32", "bfloat16", "float16")
MODES = ("eval", "train")
_AXIS = re.compile(r"[A-Za-z_]\w*|\d+")


@dataclasses.dataclass(frozen=True)
class Input:
    """One input of both modules.

    Args:
      axes: their names and sizes, as "batch length 64".
      dtype: None is the dtype of the run, a real number that is differentiated; "int" or "bool" for ids and masks.
      std: of the normal numbers; a mask is True with this probability, at most 1.
      range: instead, uniform numbers or ids from the first up to, not including, the second.
      differentiate: whether its gradient is compared.

    >>> Input("batch length", dtype="int", range=(0, 1000)).shape({"batch": 2, "length": 7})
    (2, 7)
    """

    axes: str
    dtype: str | None = None
    std: float = 1.0
    range: tuple[float, float] | None = None
    differentiate: bool = True

    def __post_init__(self) -> None:
        if self.dtype not in (None, "int", "bool"):
            raise BadInput(f"an Input's dtype is None (that of the run), 'int' or 'bool'; got {self.dtype!r}")
        wrong = [axis for axis in self.axes.split() if not _AXIS.fullmatch(axis)]
        if wrong:
            raise BadInput(
                f"an Input's axes are names and sizes, as 'batch length 64'; got {wrong[0]!r} in {self.axes!r}"
            )
        if self.dtype == "int" and (self.range is None or int(self.range[1]) <= int(self.range[0])):
            raise BadInput(f"an Input of ids needs a range=(first, beyond the last); got range={self.range!r}")
        if self.dtype == "bool" and not 0 <= self.std <= 1:
            raise BadInput(f"a mask is True with probability std, 0 to 1; got std={self.std!r}")

    @property
    def names(self) -> list[str]:
        return [axis for axis in self.axes.split() if not axis.isdigit()]

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        return tuple(int(axis) if axis.isdigit() else sizes[axis] for axis in self.axes.split())


@dataclasses.dataclass(frozen=True)
class Pair:
    """A torch module and a Flax one that are to be the same function.

    Args:
      torch: makes the torch module, `torch.nn.Module`; torch's generator is seeded before.
      flax: makes the Flax one: an `nnx.Module`, or a `linen.Module`, which is initialised with the inputs. Either
        function may take `dtype`, and is then given that of the run, as its framework has it.
      inputs: by the names under which both are called, unless `torch_call` and `flax_call` say otherwise.
      sizes: of the axes: a number, or several to be run one after the other, all axes at their n-th.
      torch_call, flax_call: `f(module, **inputs)`, where that is not `module(**inputs)`: another order of
        axes, a flag, a method. The outputs may be nested in any way, alike on both sides.
      modes: "eval" for evaluation, "train" for a step of training, after which the buffers are compared, too.
      weights: rules for parameters that cannot be told apart by structure and shape: (torch path, Flax path[,
        transform]).
      dtypes: in which the pair is run; None for what the command says, float32.
      differs: what differs on purpose, in words; it stands in every report.
      ignore: globs over quantities that are not compared, as "buffer(*.running_var)"; they stand there as well.
      honest, wrong: for `parity mutate --pair`, other makers of the Flax module by name, with the same parameters: such
        as are the same function by another algorithm, and such as are not.

    >>> pair = Pair(torch=lambda: ..., flax=lambda: ..., inputs={"x": Input("n 8")}, sizes={"n": (3, 5)})
    >>> pair.runs
    ({'n': 3}, {'n': 5})
    """

    torch: Callable[..., Any]
    flax: Callable[..., Any]
    inputs: Mapping[str, Input]
    sizes: Mapping[str, int | Sequence[int]] = dataclasses.field(default_factory=dict)
    torch_call: Callable[..., Any] | None = None
    flax_call: Callable[..., Any] | None = None
    weights: Sequence[Sequence[str]] = ()
    dtypes: Sequence[str] | None = None
    differs: Sequence[str] = ()
    modes: Sequence[str] = ("eval",)
    ignore: Sequence[str] = ()
    honest: Mapping[str, Callable[..., Any]] = dataclasses.field(default_factory=dict)
    wrong: Mapping[str, Callable[..., Any]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("torch", "flax"):
            if not callable(getattr(self, name)):
                raise BadInput(f"a Pair's {name} is a function that makes the module; got {getattr(self, name)!r}")
        missing = sorted({axis for given in self.inputs.values() for axis in given.names} - set(self.sizes))
        if missing:
            raise BadInput(f"a Pair's sizes must give every axis a size; there is none for {', '.join(missing)}")
        for dtype in self.dtypes or ():
            if dtype not in DTYPES:
                raise BadInput(f"a Pair's dtypes are of {', '.join(DTYPES)}; got {dtype!r}")
        if isinstance(self.modes, str) or not self.modes or set(self.modes) - set(MODES):
            raise BadInput(f"a Pair's modes are a sequence of eval and train; got {self.modes!r}")
        for name in ("differs", "ignore"):
            if isinstance(getattr(self, name), str):
                raise BadInput(f"a Pair's {name} is a sequence of strings; got {getattr(self, name)!r}, not in a list")
        lengths = {len(size) for size in self.sizes.values() if not isinstance(size, int)}
        if len(lengths) > 1:
            raise BadInput(f"a Pair's sizes must all be numbers, or sequences of one length; got {dict(self.sizes)}")

    @property
    def runs(self) -> tuple[dict[str, int], ...]:
        """The sizes of each run."""
        count = max((len(size) for size in self.sizes.values() if not isinstance(size, int)), default=1)
        return tuple(
            {axis: size if isinstance(size, int) else size[n] for axis, size in self.sizes.items()}
            for n in range(count)
        )


def takes_dtype(factory: Callable[..., Any]) -> bool:
    """Whether a function, or a class, that makes a module has a parameter `dtype` of its own.

    >>> takes_dtype(lambda dtype: ...), takes_dtype(lambda **options: ...)
    (True, False)
    """
    # Not the class itself: nnx's metaclass hides its signature.
    called = getattr(factory, "__init__") if isinstance(factory, type) else factory  # noqa: B009
    try:
        return "dtype" in inspect.signature(called).parameters
    except (TypeError, ValueError):
        return False
