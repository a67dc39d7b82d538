"""What happens to the numbers on their way: named NumPy transforms, each with its way back. A table.

torch's layouts on the left, Flax's on the right. Every transform but `sum` is a bijection; `sum` and `zero` say what
they do to the rest.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from parity.weights.layers import Shape, WeightsError

Arrays = tuple[np.ndarray, ...]
Shapes = tuple[Shape, ...]


@dataclasses.dataclass(frozen=True)
class Transform:
    """From torch's arrays to Flax's and back. `fits` tells whether torch's shapes become Flax's; each direction gets
    the arrays of its own side and the shapes wanted on the other."""

    name: str
    words: str
    fits: Callable[[Shapes, Shapes], bool]
    to_flax: Callable[[Arrays, Shapes], Arrays]
    to_torch: Callable[[Arrays, Shapes], Arrays]


def _one(function: Callable[[np.ndarray, Shape], np.ndarray]) -> Callable[[Arrays, Shapes], Arrays]:
    return lambda arrays, shapes: (function(arrays[0], shapes[0]),)


def _moved(order: Callable[[int], tuple[int, ...]]) -> Callable[[Shapes, Shapes], bool]:
    def fits(torch: Shapes, flax: Shapes) -> bool:
        if len(torch) != 1 or len(flax) != 1 or len(torch[0]) != len(flax[0]) or len(torch[0]) < 3:
            return False
        return tuple(torch[0][axis] for axis in order(len(torch[0]))) == flax[0]

    return fits


def _conv(rank: int) -> tuple[int, ...]:
    """(out, in, *spatial) -> (*spatial, in, out); of itself the order of a transposed one's (in, out, *spatial) ->
    (*spatial, out, in)."""
    return (*range(2, rank), 1, 0)


def _conv_transpose(rank: int) -> tuple[int, ...]:
    """(in, out, *spatial) -> (*spatial, in, out)."""
    return (*range(2, rank), 0, 1)


def _flipped(array: np.ndarray, spatial: range) -> np.ndarray:
    return np.flip(array, tuple(spatial))


def _same(torch: Shapes, flax: Shapes) -> bool:
    return torch == flax and len(torch) == 1


def _same_number(torch: Shapes, flax: Shapes) -> bool:
    return len(torch) == len(flax) == 1 and math.prod(torch[0]) == math.prod(flax[0])


def _linear(torch: Shapes, flax: Shapes) -> bool:
    """(out, in) becomes (*in, *out): some leading axes of Flax's kernel hold just the inputs."""
    if len(torch) != 1 or len(flax) != 1 or len(torch[0]) != 2 or len(flax[0]) < 2:
        return False
    outputs, inputs = torch[0]
    return any(
        (math.prod(flax[0][:axis]), math.prod(flax[0][axis:])) == (inputs, outputs) for axis in range(1, len(flax[0]))
    )


def _nothing(array: np.ndarray) -> None:
    """A bias that the other side lacks must be zero, or the two are not the same function."""
    if np.any(array != 0):
        raise WeightsError(
            "expected zeros, as the other side has no such bias, got values up to "
            f"{float(np.abs(array.astype(np.float64)).max()):.3g}. In a GRU (torch adds a second bias to the new gate, "
            "nnx.GRUCell has none): replace the cell's layer with `cell.dense_h = nnx.Linear(hidden, 3 * hidden, "
            "rngs=rngs)`, and it is torch's exactly; linen.GRUCell has that bias already"
        )


def _zero_to_flax(arrays: Arrays, shapes: Shapes) -> Arrays:
    for array in arrays:
        _nothing(array)
    return tuple(np.zeros(shape) for shape in shapes)


def _zero_to_torch(arrays: Arrays, shapes: Shapes) -> Arrays:
    return _zero_to_flax(arrays, shapes)


def _sum(arrays: Arrays, shapes: Shapes) -> Arrays:
    first, second = arrays
    return ((first + second).reshape(shapes[0]),)


def _unsum(arrays: Arrays, shapes: Shapes) -> Arrays:
    return arrays[0].reshape(shapes[0]), np.zeros(shapes[1], arrays[0].dtype)


_ROWS = (
    Transform("identity", "as it is", _same, _one(lambda a, s: a), _one(lambda a, s: a)),
    Transform(
        "reshape", "same order, other axes", _same_number,
        _one(lambda a, s: a.reshape(s)), _one(lambda a, s: a.reshape(s)),
    ),
    Transform(
        "transpose", "(out, in) to (in, out)",
        lambda t, f: len(t) == len(f) == 1 and len(t[0]) == 2 and t[0][::-1] == f[0],
        _one(lambda a, s: a.T), _one(lambda a, s: a.T),
    ),
    Transform(
        "linear", "(out, in) to (*in, *out): heads and their size are axes of Flax's own", _linear,
        _one(lambda a, s: a.T.reshape(s)), _one(lambda a, s: a.reshape(s[::-1]).T),
    ),
    Transform(
        "conv", "(out, in, *k) to (*k, in, out)", _moved(_conv),
        _one(lambda a, s: a.transpose(_conv(a.ndim))),
        _one(lambda a, s: a.transpose(a.ndim - 1, a.ndim - 2, *range(a.ndim - 2))),
    ),
    # Measured: flax's ConvTranspose correlates with the kernel as it stands, torch's with the flipped one …
    Transform(
        "conv_transpose", "(in, out, *k) to (*k, in, out), the spatial axes flipped", _moved(_conv_transpose),
        _one(lambda a, s: _flipped(a.transpose(_conv_transpose(a.ndim)), range(a.ndim - 2))),
        _one(lambda a, s: _flipped(a.transpose(a.ndim - 2, a.ndim - 1, *range(a.ndim - 2)), range(2, a.ndim))),
    ),
    # … and with transpose_kernel=True flips it and swaps its channels, as torch does.
    Transform(
        "conv_transpose_swapped", "(in, out, *k) to (*k, out, in): transpose_kernel=True flips by itself",
        _moved(_conv),
        _one(lambda a, s: a.transpose(_conv(a.ndim))),
        _one(lambda a, s: a.transpose(a.ndim - 1, a.ndim - 2, *range(a.ndim - 2))),
    ),
    Transform(
        "sum", "two biases that are always added become one; the way back puts it in the first, and zeros in the other",
        lambda t, f: len(t) == 2 and len(f) == 1 and t[0] == t[1] and math.prod(t[0]) == math.prod(f[0]), _sum, _unsum,
    ),
    Transform(
        "zero", "a bias that only one side has: must be zero there", lambda t, f: not (t and f),
        _zero_to_flax, _zero_to_torch,
    ),
    Transform("ignored", "left as it is on its side", lambda t, f: not (t and f), lambda a, s: (), lambda a, s: ()),
)  # fmt: skip

TABLE = {row.name: row for row in _ROWS}


def get(name: str) -> Transform:
    """The transform of this name.

    >>> get("conv").to_flax((np.zeros((7, 5, 3, 2)),), ((3, 2, 5, 7),))[0].shape
    (3, 2, 5, 7)
    """
    if name not in TABLE:
        raise WeightsError(f"expected a transform, one of {', '.join(TABLE)}; got {name!r}")
    return TABLE[name]
