"""Which role of a torch layer becomes which role of a Flax one, by which transform. A table: one line to add a kind.

A row fits two layers when its roles are theirs, all of them; one that is `maybe`, as a bias, may be missing on both.
 `role[i/n]` is a part: along torch's first axis, along Flax's last.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter

from parity.weights import transforms
from parity.weights.layers import Layer, Tensor, WeightsError

_PIECE = re.compile(r"(?P<role>.*)\[(?P<index>\d+)/(?P<count>\d+)\]")


@dataclasses.dataclass(frozen=True)
class Move:
    """Roles of torch, roles of Flax, and the transform between them; `maybe`: dropped where neither side has them."""

    torch: tuple[str, ...]
    flax: tuple[str, ...]
    transform: str
    maybe: bool = False


@dataclasses.dataclass(frozen=True)
class Pairing:
    """A torch kind that may be paired with Flax kinds."""

    torch: str
    flax: tuple[str, ...]
    moves: tuple[Move, ...]


def _one(torch: str, flax: str, transform: str, maybe: bool = False) -> Move:
    return Move((torch,), (flax,), transform, maybe)


def _with_bias(torch: str, flax: str, transform: str, bias: str = "identity") -> tuple[Move, ...]:
    return _one(torch, flax, transform), _one("bias", "bias", bias, maybe=True)


_STATISTICS = (_one("mean", "mean", "identity"), _one("var", "var", "identity"))
_SCALED = (_one("weight", "scale", "identity"), _one("bias", "bias", "identity", maybe=True))


def _gates(torch: str, flax: str, names: tuple[str, ...], transform: str) -> tuple[Move, ...]:
    return tuple(_one(f"{torch}[{i}/{len(names)}]", flax.format(name), transform) for i, name in enumerate(names))


def _sums(count: int, flax: tuple[str, ...]) -> tuple[Move, ...]:
    """Biases of gates to whose sum nothing happens in between; all of one packed bias, or one each."""
    return tuple(
        Move((f"bias_ih[{i}/{count}]", f"bias_hh[{i}/{count}]"), (name,), "sum") for i, name in enumerate(flax)
    )


_PACKED = (_one("ih", "i", "transpose"), _one("hh", "h", "transpose"))
_TWO_BIASES = (_one("bias_ih", "bias_i", "identity"), _one("bias_hh", "bias_h", "identity"))
_RZN, _IFGO = ("r", "z", "n"), ("i", "f", "g", "o")
_GRU_KERNELS = _gates("ih", "i{}", _RZN, "transpose") + _gates("hh", "h{}", _RZN, "transpose")
_LSTM_KERNELS = _gates("ih", "i{}", _IFGO, "transpose") + _gates("hh", "h{}", _IFGO, "transpose")

TABLE = (
    Pairing("linear", ("linear", "kernel"), _with_bias("weight", "kernel", "linear", "reshape")),
    Pairing("conv", ("conv", "kernel"), _with_bias("weight", "kernel", "conv")),
    Pairing("conv_transpose", ("conv_transpose", "kernel"), _with_bias("weight", "kernel", "conv_transpose")),
    Pairing(
        "conv_transpose", ("conv_transpose_swapped", "kernel"),
        _with_bias("weight", "kernel", "conv_transpose_swapped"),
    ),
    Pairing("embedding", ("embedding",), (_one("weight", "embedding", "identity"),)),
    Pairing("layer_norm", ("layer_norm", "scale"), _SCALED),
    Pairing("group_norm", ("group_norm", "scale"), _SCALED),
    Pairing("instance_norm", ("instance_norm", "scale"), _SCALED),
    Pairing("rms_norm", ("rms_norm", "scale"), (_one("weight", "scale", "identity"),)),
    Pairing("batch_norm", ("batch_norm",), (*_SCALED, *_STATISTICS)),
    Pairing("batch_norm", ("batch_norm",), _STATISTICS),
    Pairing("batch_norm", ("batch_norm", "scale"), _SCALED),
    Pairing("prelu", ("prelu",), (_one("weight", "negative_slope", "reshape"),)),
    # A parameter of a class that nobody here knows.
    Pairing("parameter", ("parameter",), (_one("value", "value", "identity"),)),
    Pairing("buffer", ("buffer",), (_one("value", "value", "identity"),)),
    Pairing("parameter", ("rms_norm", "scale"), (_one("value", "scale", "identity"),)),
    Pairing("rms_norm", ("parameter",), (_one("weight", "value", "identity"),)),
    # r and z add their two biases; torch's n keeps them apart, as r is multiplied in between. nnx.GRUCell has no bias
    # there, linen.GRUCell has. All three order the gates r, z, n.
    Pairing("gru", ("gru",), (*_PACKED, *_TWO_BIASES)),
    Pairing("gru", ("gru",), (
        *_PACKED, *_sums(3, ("bias_i[0/3]", "bias_i[1/3]")),
        _one("bias_ih[2/3]", "bias_i[2/3]", "identity"), Move(("bias_hh[2/3]",), (), "zero"),
    )),
    Pairing("gru", ("gru",), (*_PACKED, Move((), ("bias_i",), "zero"))),
    Pairing("gru", ("gru",), (
        *_GRU_KERNELS, *_sums(3, ("bias_ir", "bias_iz")),
        _one("bias_ih[2/3]", "bias_in", "identity"), _one("bias_hh[2/3]", "bias_hn", "identity"),
    )),
    Pairing("gru", ("gru",), (
        *_GRU_KERNELS, *(Move((), (f"bias_{name}",), "zero") for name in ("ir", "iz", "in", "hn")),
    )),
    # All add their two biases before anything else happens. i, f, g, o everywhere.
    Pairing("lstm", ("lstm",), (*_PACKED, *_TWO_BIASES)),
    Pairing("lstm", ("lstm",), (*_PACKED, Move(("bias_ih", "bias_hh"), ("bias_h",), "sum"))),
    Pairing("lstm", ("lstm",), (*_PACKED, Move((), ("bias_h",), "zero"))),
    Pairing("lstm", ("lstm",), (*_LSTM_KERNELS, *_sums(4, tuple(f"bias_h{name}" for name in _IFGO)))),
    Pairing("lstm", ("lstm",), (*_LSTM_KERNELS, *(Move((), (f"bias_h{name}",), "zero") for name in _IFGO))),
    Pairing("rnn", ("rnn",), (*_PACKED, *_TWO_BIASES)),
    Pairing("rnn", ("rnn",), (*_PACKED, Move(("bias_ih", "bias_hh"), ("bias_i",), "sum"))),
    Pairing("rnn", ("rnn",), (*_PACKED, Move((), ("bias_i",), "zero"))),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Step:
    """One transform between tensors, parts of them included."""

    torch: tuple[Tensor, ...]
    flax: tuple[Tensor, ...]
    transform: str


def steps(torch: Layer, flax: Layer) -> tuple[tuple[Step, ...], ...]:
    """The ways in which these two layers correspond, shapes and all: usually one or none.

    >>> linear = Layer("fc", "linear", {"weight": Tensor("fc.weight", (7, 5), "float32")})
    >>> dense = Layer("Dense_0", "kernel", {"kernel": Tensor("params.Dense_0.kernel", (5, 7), "float32")})
    >>> [step.transform for way in steps(linear, dense) for step in way]
    ['linear']
    """
    if any(torch.options[name] != flax.options[name] for name in torch.options.keys() & flax.options.keys()):
        return ()
    found: list[tuple[Step, ...]] = []
    for pairing in TABLE:
        if pairing.torch != torch.kind or flax.kind not in pairing.flax:
            continue
        moves = [
            move for move in pairing.moves
            if not (move.maybe and not _has(torch, move.torch) and not _has(flax, move.flax))
        ]  # fmt: skip
        if not _covers(torch, [move.torch for move in moves]) or not _covers(flax, [move.flax for move in moves]):
            continue
        way = _fitting(torch, flax, moves)
        if way is not None and way not in found:
            found.append(way)
    return tuple(found)


def square(layer: Layer) -> bool:
    """A parameter of no known kind two of whose axes could be exchanged without anything noticing.

    >>> square(Layer("w", "parameter", {"value": Tensor("w", (5, 5), "float32")}))
    True
    """
    shape = layer.tensors["value"].size if layer.kind in ("parameter", "buffer") else ()
    return any(size > 1 and count > 1 for size, count in Counter(shape).items())


def _fitting(torch: Layer, flax: Layer, moves: list[Move]) -> tuple[Step, ...] | None:
    way = []
    for move in moves:
        try:
            left = tuple(_tensor(torch, role, axis=0) for role in move.torch)
            right = tuple(_tensor(flax, role, axis=-1) for role in move.flax)
        except WeightsError:
            return None
        shapes = tuple(tensor.size for tensor in left), tuple(tensor.size for tensor in right)
        if not transforms.get(move.transform).fits(*shapes):
            return None
        way.append(Step(left, right, move.transform))
    return tuple(way)


def _role(name: str) -> str:
    piece = _PIECE.fullmatch(name)
    return piece["role"] if piece else name


def _has(layer: Layer, roles: tuple[str, ...]) -> bool:
    return any(_role(role) in layer.tensors for role in roles)


def _covers(layer: Layer, roles: list[tuple[str, ...]]) -> bool:
    return {_role(role) for each in roles for role in each} == set(layer.tensors)


def _tensor(layer: Layer, name: str, axis: int) -> Tensor:
    piece = _PIECE.fullmatch(name)
    if piece is None:
        return layer.tensors[name]
    return layer.tensors[piece["role"]].piece(int(piece["index"]), int(piece["count"]), axis)
