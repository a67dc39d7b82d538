"""The catalogue that the judge is judged by: wrong ports that people write, and honest ones that only round otherwise.

A row is a name, what people get wrong, and the step of `port.Port` that does it. Each is a class of its own, so
`parity run --candidate parity.mutants:causal_upper_left` shows what a user would see.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from parity.port import Port

Step = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Mutant:
    """A port that differs from `Port` in the steps of `steps`; `honest` ones must pass, the others must not."""

    name: str
    family: str
    mistake: str
    steps: dict[str, Step]
    honest: bool = False

    def build(self) -> type[Port]:
        return type(self.name, (Port,), dict(self.steps))


def _rounded(x: Tensor, bits: int) -> Tensor:
    """x with a significand of `bits` bits, as a gradient sees through it."""
    mantissa, exponent = torch.frexp(x.detach())
    near = torch.ldexp(torch.round(mantissa * 2.0**bits), exponent - bits)
    return x + (near - x.detach())


class _Reduced(torch.autograd.Function):
    """a @ b with factors of `bits` bits, in the forward pass, the backward pass or both."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, forward_bits: int, backward_bits: int) -> Tensor:
        ctx.save_for_backward(a, b)
        ctx.bits = backward_bits
        return _rounded(a, forward_bits) @ _rounded(b, forward_bits)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        a, b, g = (_rounded(x, ctx.bits) for x in (*ctx.saved_tensors, grads[0]))
        return g @ b.mT, a.mT @ g, None, None


def _products(forward_bits: int, backward_bits: int) -> dict[str, Step]:
    def product(a: Tensor, b: Tensor) -> Tensor:
        result: Tensor = _Reduced.apply(a, b, forward_bits, backward_bits)  # type: ignore[no-untyped-call]
        return result

    return {
        "scores": lambda self, q, k, v: product(q, k.mT) * self.factor(q, v),
        "contract": lambda self, weights, v: product(weights, v),
    }


class _Backward(torch.autograd.Function):
    """The identity, with its gradient changed by a function."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.change = change
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return ctx.change(grads[0]), None


def _backward(x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    result: Tensor = _Backward.apply(x, change)  # type: ignore[no-untyped-call]
    return result


def _arranged(change: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]) -> dict[str, Step]:
    """A step that changes query, key and value after they are arranged."""
    return {"arrange": lambda self, q, k, v: change(*Port.arrange(self, q, k, v))}


def _bias(change: Callable[[Tensor], Tensor]) -> dict[str, Step]:
    """A step that changes the bias before it is added."""
    return {"add_bias": lambda self, scores, bias, head_dim: scores + change(bias)}


def _output(change: Callable[[Tensor], Tensor]) -> dict[str, Step]:
    """A step that changes the output before it is cast and laid out."""
    return {"contract": lambda self, weights, v: change(weights @ v)}


def _square_transposed(x: Tensor) -> Tensor:
    return x.mT if x.ndim > 1 and x.shape[-1] == x.shape[-2] else x


def _first(axis: int) -> Callable[[Tensor], Tensor]:
    """The first slice of an axis, counted from the last, in place of all."""
    return lambda x: x.narrow(axis, 0, min(1, x.shape[axis])).expand_as(x) if x.ndim >= -axis else x


def _at(x: Tensor, index: tuple[Any, ...], change: Callable[[Tensor], Tensor]) -> Tensor:
    """x with the elements at `index` changed."""
    if 0 in x.shape:
        return x
    hit = torch.zeros_like(x, dtype=torch.bool)
    hit[index] = True
    return torch.where(hit, change(x), x)


def _ignored_keys(start: int) -> dict[str, Step]:
    """Keys from `start` on are never attended."""

    def allowed(self: Port, q_len: int, kv_len: int, mask: Tensor | None) -> Tensor | None:
        keep = Port.allowed(self, q_len, kv_len, mask)
        if kv_len <= start:
            return keep
        near = torch.arange(kv_len) < start
        return near.expand(q_len, kv_len) if keep is None else keep & near

    return {"allowed": allowed}


def _zero_empty_rows(self: Port, filled: Tensor, keep: Tensor | None) -> Tensor:
    weights = filled.softmax(-1)
    return weights if keep is None else weights * keep.any(-1, keepdim=True)


def _odd_keys(self: Port, q_len: int, kv_len: int, mask: Tensor | None) -> Tensor | None:
    keep = Port.allowed(self, q_len, kv_len, mask)
    if kv_len % 2 == 0 or kv_len < 2:
        return keep
    even = torch.arange(kv_len) < kv_len - 1
    return even.expand(q_len, kv_len) if keep is None else keep & even


def _no_delta(self: Port, filled: Tensor, keep: Tensor | None) -> Tensor:
    """exp(s) over a constant: the normaliser gets no gradient."""
    top = filled.amax(-1, keepdim=True).detach()
    exp = (filled - top).exp()
    return exp / exp.sum(-1, keepdim=True).detach()


def _over(axis: int) -> dict[str, Step]:
    return {"softmax": lambda self, filled, keep: filled.softmax(axis)}


def _softmax(of: Callable[[Tensor], Tensor]) -> dict[str, Step]:
    """exp and sum with another formula; `of` gets the scores minus their largest."""

    def softmax(self: Port, filled: Tensor, keep: Tensor | None) -> Tensor:
        return of(filled - filled.amax(-1, keepdim=True).detach())

    return {"softmax": softmax}


def _normalised(exp: Tensor, extra: float = 0.0) -> Tensor:
    return exp / (exp.sum(-1, keepdim=True) + extra)


def _native(change: Callable[[Port, Tensor], Tensor]) -> dict[str, Step]:
    """Another way to draw the kept weights; a mask from outside is used as it is."""
    return {"kept": lambda self, weights, mask: change(self, weights) if mask is None else mask}


def _half_group(x: Tensor, heads: int) -> Tensor:
    """Only the first query head of a group sends a gradient to the shared key head."""
    group = heads // max(x.shape[1], 1)
    if group < 2:
        return x
    parts = [x, *(x.detach() for _ in range(group - 1))]
    return torch.stack(parts, dim=2).flatten(1, 2)


def _causal(offset: Callable[[Port, int, int], int]) -> dict[str, Step]:
    return {"offset": offset}


WRONG = (
    # masks
    Mutant("causal_upper_left", "masks", "aligns causal to the upper left corner", _causal(lambda self, i, j: 0)),
    Mutant("causal_lower_right", "masks", "aligns flash's causal to the lower right too", _causal(lambda self, i, j: j - i)),
    Mutant("causal_ignored", "masks", "forgets causal", {"corner": lambda self: None}),
    Mutant("causal_ignored_in_flash", "masks", "forgets causal in flash mode", {"corner": lambda self: None if self.flash else Port.corner(self)}),
    Mutant("causal_strict", "masks", "hides the diagonal", _causal(lambda self, i, j: Port.offset(self, i, j) - 1)),
    Mutant("causal_one_ahead", "masks", "shows one key of the future", _causal(lambda self, i, j: Port.offset(self, i, j) + 1)),
    Mutant("corner_names_ignored", "masks", "takes any causal string for True", {"corner": lambda self: ("upper_left" if self.flash else "lower_right") if self.causal else None}),
    Mutant("empty_rows_zero", "masks", "gives 0 for rows that may attend nothing", {"softmax": _zero_empty_rows}),
    Mutant("empty_rows_nan", "masks", "fills with -inf", {"fill": lambda self, scores, keep, lowest: Port.fill(self, scores, keep, -torch.inf)}),
    Mutant("fill_too_high", "masks", "fills with -10: masked keys leak", {"fill": lambda self, scores, keep, lowest: Port.fill(self, scores, keep, -10.0)}),
    Mutant("fill_added", "masks", "adds the fill to the scores: empty rows keep a gradient", {"fill": lambda self, scores, keep, lowest: scores if keep is None else scores + (~keep) * (lowest / 2)}),
    Mutant("mask_inverted", "masks", "takes True for masked", {"allowed": lambda self, i, j, mask: Port.allowed(self, i, j, None if mask is None else ~mask)}),
    Mutant("mask_ignored", "masks", "forgets the mask", {"allowed": lambda self, i, j, mask: Port.allowed(self, i, j, None)}),
    Mutant("mask_or_causal", "masks", "combines mask and causal by OR", {"both": lambda self, causal, mask: causal | mask}),
    Mutant("mask_replaces_causal", "masks", "lets a mask switch causal off", {"both": lambda self, causal, mask: mask.expand(*mask.shape[:-2], *causal.shape)}),
    Mutant("mask_after_softmax", "masks", "zeroes masked weights without renormalising", {"fill": lambda self, scores, keep, lowest: scores, "softmax": lambda self, filled, keep: filled.softmax(-1) if keep is None else filled.softmax(-1) * keep}),
    Mutant("mask_of_first_head", "masks", "uses the first head's mask for all", {"allowed": lambda self, i, j, mask: Port.allowed(self, i, j, None if mask is None else _first(-3)(mask))}),
    Mutant("mask_of_first_batch", "masks", "uses the first batch's mask for all", {"allowed": lambda self, i, j, mask: Port.allowed(self, i, j, None if mask is None else _first(-4)(mask))}),
    Mutant("mask_transposed", "masks", "transposes a square mask", {"allowed": lambda self, i, j, mask: Port.allowed(self, i, j, None if mask is None else _square_transposed(mask))}),
    # bias
    Mutant("bias_ignored", "bias", "forgets the bias", _bias(lambda bias: bias * 0)),
    Mutant("bias_transposed", "bias", "transposes a square bias", _bias(_square_transposed)),
    Mutant("bias_subtracted", "bias", "has the wrong sign", _bias(lambda bias: -bias)),
    Mutant("bias_scaled", "bias", "adds the bias before the scale", {"add_bias": lambda self, scores, bias, head_dim: scores + bias * head_dim**-0.5}),
    Mutant("bias_of_first_head", "bias", "uses the first head's bias for all", _bias(_first(-3))),
    Mutant("bias_of_first_batch", "bias", "uses the first batch's bias for all", _bias(_first(-4))),
    Mutant("bias_rolled", "bias", "is off by one key, as relative positions get", _bias(lambda bias: bias.roll(1, -1))),
    Mutant("bias_flipped", "bias", "counts relative positions the other way", _bias(lambda bias: bias.flip(-1))),
    Mutant("bias_nearly", "bias", "is off by 0.1 %", _bias(lambda bias: bias * 1.001)),
    Mutant("bias_in_16_bits", "bias", "rounds an fp32 bias to bfloat16", _bias(lambda bias: _rounded(bias, 8))),
    Mutant("bias_no_gradient", "bias", "detaches the bias", _bias(lambda bias: bias.detach())),
    Mutant("bias_gradient_mean", "bias", "averages the bias' gradient over a broadcast axis", _bias(lambda bias: _backward(bias, lambda g: g / 2))),
    Mutant("bias_gradient_first_batch", "bias", "takes the bias' gradient from the first batch only", {"add_bias": lambda self, scores, bias, head_dim: torch.cat([scores[:1] + (bias if bias.ndim < 4 else bias[:1]), scores[1:] + (bias if bias.ndim < 4 or bias.shape[0] == 1 else bias[1:]).detach()])}),
    Mutant("bias_after_softmax", "bias", "adds the bias to the weights", {"add_bias": lambda self, scores, bias, head_dim: setattr(self, "_late", bias) or scores, "softmax": lambda self, filled, keep: filled.softmax(-1) + self.__dict__.pop("_late", 0)}),
    # scale
    Mutant("scale_missing", "scale", "forgets the scale", {"factor": lambda self, q, v: 1.0}),
    Mutant("scale_squared", "scale", "divides by d instead of its root", {"factor": lambda self, q, v: q.shape[-1] ** -1.0 if self.scale is None else self.scale}),
    Mutant("scale_of_value", "scale", "takes value's head size", {"factor": lambda self, q, v: max(v.shape[-1], 1) ** -0.5 if self.scale is None else self.scale}),
    Mutant("scale_of_model", "scale", "takes heads times head size", {"factor": lambda self, q, v: (q.shape[1] * q.shape[-1]) ** -0.5 if self.scale is None else self.scale}),
    Mutant("scale_argument_ignored", "scale", "always takes the default", {"factor": lambda self, q, v: q.shape[-1] ** -0.5}),
    Mutant("scale_in_16_bits", "scale", "rounds the scale to bfloat16", {"factor": lambda self, q, v: float(torch.tensor(Port.factor(self, q, v)).bfloat16())}),
    # softmax
    Mutant("softmax_over_queries", "softmax", "normalises the wrong axis", _over(-2)),
    Mutant("softmax_over_heads", "softmax", "normalises over heads", _over(1)),
    Mutant("softmax_no_maximum", "softmax", "overflows for large scores", {"softmax": lambda self, filled, keep: _normalised(filled.exp())}),
    Mutant("softmax_off_by_one", "softmax", "adds 1 to the denominator", _softmax(lambda x: _normalised(x.exp(), 1.0))),
    Mutant("softmax_epsilon", "softmax", "adds 1e-5 to the denominator", _softmax(lambda x: _normalised(x.exp(), 1e-5))),
    Mutant("softmax_base_2", "softmax", "uses exp2 without log2(e)", _softmax(lambda x: _normalised(x.exp2()))),
    # precision
    Mutant("tf32", "precision", "multiplies in TF32", _products(11, 11)),
    Mutant("tf32_backward", "precision", "multiplies in TF32 in the backward pass", _products(24, 11)),
    Mutant("bf16_products", "precision", "multiplies in bfloat16", _products(8, 8)),
    Mutant("weights_in_16_bits", "precision", "keeps the weights in float16", {"softmax": lambda self, filled, keep: _rounded(filled.softmax(-1), 11)}),
    Mutant("scores_in_16_bits", "precision", "keeps fp32 scores in bfloat16", {"scores": lambda self, q, k, v: _rounded(Port.scores(self, q, k, v), 8)}),
    Mutant("exp_approximate", "precision", "uses a fast exp, good to 1e-5", _softmax(lambda x: _normalised(x.exp() * (1 + 2e-5 * torch.sin(40 * x.detach()))))),
    Mutant("logsumexp_in_16_bits", "precision", "rounds the log-sum-exp to float16", {"logsumexp": lambda self, scores, keep: _rounded(Port.logsumexp(self, scores, keep), 11)}),
    # dropout
    Mutant("dropout_not_rescaled", "dropout", "forgets 1 / (1 - p)", {"drop": lambda self, weights, kept: weights * kept}),
    Mutant("dropout_inverted", "dropout", "drops what it should keep", {"drop": lambda self, weights, kept: Port.drop(self, weights, ~kept)}),
    Mutant("dropout_renormalised", "dropout", "normalises again after dropping", {"drop": lambda self, weights, kept: _normalised(weights * kept, 1e-30)}),
    Mutant("dropout_on_output", "dropout", "drops features of the output instead of weights", {"drops": lambda self, mask: False, "finish": lambda self, output, dtype: Port.finish(self, torch.dropout(output, self.dropout, self.training), dtype)}),
    Mutant("dropout_mask_ignored", "dropout", "draws its own although a mask is given", {"kept": lambda self, weights, mask: torch.rand_like(weights) >= self.dropout}),
    Mutant("dropout_in_evaluation", "dropout", "drops in evaluation too", {"drops": lambda self, mask: self.dropout > 0}),
    Mutant("dropout_never", "dropout", "does not drop in training", {"drops": lambda self, mask: mask is not None}),
    Mutant("dropout_rate_swapped", "dropout", "keeps with probability p", _native(lambda self, weights: torch.rand_like(weights) < self.dropout)),
    Mutant("dropout_shared_by_heads", "dropout", "drops the same weights in all heads", _native(lambda self, weights: (torch.rand_like(weights[:, :1]) >= self.dropout).expand_as(weights))),
    Mutant("dropout_shared_by_batch", "dropout", "drops the same weights in all batches", _native(lambda self, weights: (torch.rand_like(weights[:1]) >= self.dropout).expand_as(weights))),
    Mutant("dropout_same_every_call", "dropout", "seeds the generator in every call", _native(lambda self, weights: torch.rand(weights.shape, generator=torch.Generator().manual_seed(0)) >= self.dropout)),
    Mutant("dropout_whole_rows", "dropout", "drops all keys of a query at once", _native(lambda self, weights: (torch.rand_like(weights[..., :1]) >= self.dropout).expand_as(weights))),
    Mutant("dropout_not_in_backward", "dropout", "forgets the mask in the backward pass", {"drop": lambda self, weights, kept: weights + (Port.drop(self, weights, kept) - weights).detach()}),
    # gradients
    Mutant("query_no_gradient", "gradients", "detaches query", _arranged(lambda q, k, v: (q.detach(), k, v))),
    Mutant("value_no_gradient", "gradients", "detaches value", _arranged(lambda q, k, v: (q, k, v.detach()))),
    Mutant("key_gradient_doubled", "gradients", "counts key's gradient twice", _arranged(lambda q, k, v: (q, _backward(k, lambda g: 2 * g), v))),
    Mutant("query_gradient_unscaled", "gradients", "forgets the scale in the backward pass", {"arrange": lambda self, q, k, v: (lambda q, k, v: (_backward(q, lambda g: g / (self.factor(q, v) or 1)), k, v))(*Port.arrange(self, q, k, v))}),
    Mutant("softmax_no_delta", "gradients", "treats the softmax's sum as a constant", {"softmax": _no_delta}),
    Mutant("logsumexp_no_gradient", "gradients", "drops the log-sum-exp's gradient", {"logsumexp": lambda self, scores, keep: Port.logsumexp(self, scores, keep).detach()}),
    Mutant("group_gradient_of_one", "gradients", "does not sum the gradient over a group of heads", {"spread": lambda self, x, heads: _half_group(x, heads)}),
    Mutant("gradient_clipped", "gradients", "clips gradients to 1", _arranged(lambda q, k, v: (q, k, _backward(v, lambda g: g.clamp(-1, 1))))),
    # layout
    Mutant("groups_in_turn", "layout", "lets query head n read key head n % kv_heads", {"spread": lambda self, x, heads: x if x.shape[1] == heads else x.repeat(1, heads // x.shape[1], 1, 1)}),
    Mutant("layout_ignored", "layout", "takes bnhd for bhnd", {"heads_first": lambda self, x: x}),
    Mutant("layout_of_output_ignored", "layout", "returns bhnd for bnhd", {"finish": lambda self, output, dtype: output.to(dtype)}),
    Mutant("value_cut_to_head_dim", "layout", "assumes e = d", _arranged(lambda q, k, v: (q, k, torch.where(torch.arange(v.shape[-1]) < q.shape[-1], v, 0)))),
    Mutant("output_in_float32", "layout", "returns float32 for 16-bit inputs", {"finish": lambda self, output, dtype: Port.finish(self, output, torch.float32)}),
    Mutant("heads_rotated", "layout", "merges heads in another order", _output(lambda x: x.roll(1, 1))),
    # corners
    Mutant("keys_past_256_ignored", "corners", "is wrong only past 256 keys", _ignored_keys(256)),
    Mutant("keys_past_512_ignored", "corners", "is wrong only past 512 keys", _ignored_keys(512)),
    Mutant("keys_past_1024_ignored", "corners", "is wrong only past 1024 keys", _ignored_keys(1024)),
    Mutant("rows_past_1024_wrong", "corners", "is wrong only past 1024 queries", _output(lambda x: torch.where(torch.arange(x.shape[-2])[:, None] < 1024, x, 0))),
    Mutant("odd_length_cut", "corners", "loses the last key of an odd length", {"allowed": _odd_keys}),
    Mutant("batch_of_first", "corners", "is wrong only for batch > 1", _arranged(lambda q, k, v: (q, k[:1].expand_as(k), v))),
    Mutant("batch_past_128_wrong", "corners", "is wrong only past batch 128", _output(lambda x: torch.where(torch.arange(x.shape[0])[:, None, None, None] < 128, x, 0))),
    Mutant("last_row_wrong", "corners", "is wrong in the last query row only", _output(lambda x: _at(x, (..., -1, slice(None)), lambda x: x * 1.01))),
    Mutant("one_element_off", "corners", "is off by 1 % in one element", _output(lambda x: _at(x, (0, -1, 0, 0), lambda x: x * 1.01 + 1e-2))),
    Mutant("one_nan", "corners", "has one NaN", _output(lambda x: _at(x, (-1, 0, -1, 0), lambda x: x * torch.nan))),
    Mutant("nan_hidden", "corners", "replaces NaN by 0", _output(lambda x: x.nan_to_num())),
    Mutant("head_size_cut", "corners", "drops head features past 8", {"scores": lambda self, q, k, v: Port.scores(self, torch.where(torch.arange(q.shape[-1]) < 8, q, 0), k, v)}),
    Mutant("single_query_not_causal", "corners", "treats one query as seeing everything", {"corner": lambda self: Port.corner(self), "offset": lambda self, i, j: j if i == 1 else Port.offset(self, i, j)}),
    Mutant("rectangles_refused", "corners", "raises where lengths differ", {"allowed": lambda self, i, j, mask: Port.allowed(self, i, j, mask) if i == j else _refuse()}),
)  # fmt: skip


def _refuse() -> None:
    raise NotImplementedError("query and key lengths must be equal")


def _online(self: Port, filled: Tensor, keep: Tensor | None) -> Tensor:
    """Maximum and sum by blocks of 5 keys, rescaled as they go, as flash attention does."""
    top = torch.full_like(filled[..., :1], -torch.inf)
    total = torch.zeros_like(top)
    for block in filled.split(5, -1):
        higher = torch.maximum(top, block.amax(-1, keepdim=True).detach())
        total = total * (top - higher).exp() + (block - higher).exp().sum(-1, keepdim=True)
        top = higher
    return (filled - top).exp() / total


def _late(self: Port, weights: Tensor, v: Tensor) -> Tensor:
    """Weights times a power of two and a third, divided out after the product: other roundings."""
    return (weights * 3.0) @ v / 3.0


def _by_query_chunks(self: Port, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.cat([Port.scores(self, part, k, v) for part in q.split(4, -2)], -2)


def _by_key_chunks(self: Port, weights: Tensor, v: Tensor) -> Tensor:
    parts = zip(weights.split(7, -1), v.split(7, -2), strict=True)
    return sum((w @ x for w, x in parts), torch.zeros(()))


HONEST = (
    Mutant("plain_port", "honest", "computes in float32 throughout", {}, honest=True),
    Mutant("online_softmax", "honest", "keeps a running maximum and sum", {"softmax": _online}, honest=True),
    Mutant("exp2_softmax", "honest", "uses exp2 of scores times log2(e)", _softmax(lambda x: _normalised((x * 1.4426950408889634).exp2())), honest=True),
    Mutant("late_normalisation", "honest", "rescales after the product with value", {"contract": _late}, honest=True),
    Mutant("keys_reversed", "honest", "sums over keys in the other order", {"contract": lambda self, weights, v: weights.flip(-1) @ v.flip(-2)}, honest=True),
    Mutant("key_chunks", "honest", "sums over chunks of keys", {"contract": _by_key_chunks}, honest=True),
    Mutant("query_chunks", "honest", "computes scores by chunks of queries", {"scores": _by_query_chunks}, honest=True),
    Mutant("scaled_query", "honest", "scales query instead of the scores", {"scores": lambda self, q, k, v: (q * self.factor(q, v)) @ k.mT}, honest=True),
    Mutant("scaled_both", "honest", "scales query and key by the root of the scale", {"scores": lambda self, q, k, v: (q * abs(self.factor(q, v)) ** 0.5) @ (k * abs(self.factor(q, v)) ** 0.5).mT * (1 if self.factor(q, v) >= 0 else -1)}, honest=True),
    Mutant("log_softmax", "honest", "takes exp of the log-softmax", {"softmax": lambda self, filled, keep: filled.log_softmax(-1).exp()}, honest=True),
    Mutant("narrow_arithmetic", "honest", "stays in the inputs' dtype, as the original", {"arrange": lambda self, q, k, v: tuple(x if n == 0 else self.spread(x, self.heads_first(q).shape[1]) for n, x in enumerate(map(self.heads_first, (q, k, v)))), "contract": lambda self, weights, v: weights.to(v.dtype) @ v, "logsumexp": lambda self, scores, keep: Port.logsumexp(self, scores.float(), keep)}, honest=True),
)  # fmt: skip

CATALOGUE = {mutant.name: mutant for mutant in (*WRONG, *HONEST)}


def __getattr__(name: str) -> type[Port]:
    if name in CATALOGUE:
        return CATALOGUE[name].build()
    raise AttributeError(name)


def __dir__() -> list[str]:
    return [*globals(), *CATALOGUE]
