"""Which kind of layer a Flax class is, and where its roles lie below it: one table for nnx and one for Linen.

Both frameworks name parameters alike, so the roles are shared. This file imports Flax.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Set
from typing import Any

from flax import linen, nnx

Roles = Mapping[str, str]

_KERNEL = {"kernel": "kernel", "bias": "bias"}
_SCALE = {"scale": "scale", "bias": "bias"}
_STATISTICS = _SCALE | {"mean": "mean", "var": "var"}
_PACKED = {"dense_i.kernel": "i", "dense_h.kernel": "h", "dense_i.bias": "bias_i", "dense_h.bias": "bias_h"}


def _gates(names: tuple[str, ...], spelled: Mapping[str, str] | None = None) -> Roles:
    """`ii.kernel` -> ii, `hi.bias` -> bias_hi; `spelled` has names that Python did not allow."""
    roles: dict[str, str] = {}
    for name in names:
        child = (spelled or {}).get(name, name)
        roles |= {f"{child}.kernel": name, f"{child}.bias": f"bias_{name}"}
    return roles


_GRU = _gates(("ir", "iz", "in", "hr", "hz", "hn"))
_LSTM_NAMES = ("ii", "if", "ig", "io", "hi", "hf", "hg", "ho")
_LSTM = _gates(_LSTM_NAMES)
_SIMPLE = {"i.kernel": "i", "h.kernel": "h", "i.bias": "bias_i", "h.bias": "bias_h"}


def _tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


@dataclasses.dataclass(frozen=True)
class Class:
    """`rank` is the number of axes of the first role: one more, and it is a stack of layers, which is not this kind."""

    classes: tuple[type, ...]
    kind: Callable[[Any], str]
    roles: Roles
    rank: Callable[[Any], int] | None = None


def _is(kind: str) -> Callable[[Any], str]:
    return lambda module: kind


def _transposed(module: Any) -> str:
    return "conv_transpose_swapped" if module.transpose_kernel else "conv_transpose"


def _spatial(module: Any) -> int:
    return len(_tuple(module.kernel_size)) + 2


NNX = (
    Class((nnx.Linear,), _is("linear"), _KERNEL, lambda m: 2),
    Class((nnx.LinearGeneral,), _is("linear"), _KERNEL, lambda m: len(m.in_features) + len(m.out_features)),
    Class((nnx.Conv,), _is("conv"), _KERNEL, _spatial),
    Class((nnx.ConvTranspose,), _transposed, _KERNEL, _spatial),
    Class((nnx.Embed,), _is("embedding"), {"embedding": "embedding"}, lambda m: 2),
    Class((nnx.LayerNorm,), _is("layer_norm"), _SCALE),
    Class((nnx.GroupNorm,), _is("group_norm"), _SCALE, lambda m: 1),
    Class((nnx.InstanceNorm,), _is("instance_norm"), _SCALE),
    Class((nnx.RMSNorm,), _is("rms_norm"), {"scale": "scale"}),
    Class((nnx.BatchNorm,), _is("batch_norm"), _STATISTICS, lambda m: 1),
    Class((nnx.PReLU,), _is("prelu"), {"negative_slope": "negative_slope"}),
    Class((nnx.GRUCell,), _is("gru"), _PACKED, lambda m: 2),
    Class((nnx.OptimizedLSTMCell,), _is("lstm"), _PACKED, lambda m: 2),
    Class((nnx.LSTMCell,), _is("lstm"), _gates(_LSTM_NAMES, {"if": "if_"}), lambda m: 2),
    Class((nnx.SimpleCell,), _is("rnn"), _PACKED, lambda m: 2),
)
LINEN = (
    Class((linen.Dense,), _is("linear"), _KERNEL, lambda m: 2),
    Class((linen.DenseGeneral,), _is("linear"), _KERNEL, lambda m: len(_tuple(m.axis)) + len(_tuple(m.features))),
    Class((linen.Conv,), _is("conv"), _KERNEL, _spatial),
    Class((linen.ConvTranspose,), _transposed, _KERNEL, _spatial),
    Class((linen.Embed,), _is("embedding"), {"embedding": "embedding"}, lambda m: 2),
    Class((linen.LayerNorm,), _is("layer_norm"), _SCALE),
    Class((linen.GroupNorm,), _is("group_norm"), _SCALE, lambda m: 1),
    Class((linen.InstanceNorm,), _is("instance_norm"), _SCALE),
    Class((linen.RMSNorm,), _is("rms_norm"), {"scale": "scale"}),
    Class((linen.BatchNorm,), _is("batch_norm"), _STATISTICS, lambda m: 1),
    Class((linen.PReLU,), _is("prelu"), {"negative_slope": "negative_slope"}),
    Class((linen.GRUCell,), _is("gru"), _GRU, lambda m: 2),
    Class((linen.OptimizedLSTMCell, linen.LSTMCell), _is("lstm"), _LSTM, lambda m: 2),
    Class((linen.SimpleCell,), _is("rnn"), _SIMPLE, lambda m: 2),
)
ATTENTION = (nnx.MultiHeadAttention, linen.MultiHeadDotProductAttention)


def of(module: object) -> tuple[str, Roles, int | None] | None:
    """Kind, roles by relative path, and rank of the first, of a module of a known class."""
    for row in (*NNX, *LINEN):
        if isinstance(module, row.classes):
            return row.kind(module), row.roles, row.rank(module) if row.rank else None
    return None


def guess(paths: Set[str]) -> tuple[str, Roles, int | None] | None:
    """The same from nothing but the names below a scope, for Linen variables that come without their module.

    A kernel may be a Linear's or a convolution's and a scale any norm's: the torch layer decides.

    >>> guess({"kernel", "bias"})[0], guess({"embedding"})[0], guess({"pos"})
    ('kernel', 'embedding', None)
    """
    for kind, roles, needed in (
        ("gru", _GRU, {"ir.kernel", "hn.kernel"}),
        ("lstm", _LSTM, {"ii.kernel", "ho.kernel"}),
        ("rnn", _SIMPLE, {"i.kernel", "h.kernel"}),
        ("kernel", _KERNEL, {"kernel"}),
        ("batch_norm", _STATISTICS, {"mean", "var"}),
        ("scale", _SCALE, {"scale"}),
        ("embedding", {"embedding": "embedding"}, {"embedding"}),
        ("prelu", {"negative_slope": "negative_slope"}, {"negative_slope"}),
    ):
        if needed <= paths <= set(roles):
            return kind, roles, None
    return None
