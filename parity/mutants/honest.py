"""Honest ports that only round otherwise: none may be rejected."""

from __future__ import annotations

import torch
from torch import Tensor

from parity.mutants.mutant import Mutant
from parity.mutants.port import Port
from parity.mutants.steps import normalised, softmax


def _online(self: Port, filled: Tensor, keep: Tensor | None) -> Tensor:
    """Maximum and sum by blocks of 5 keys, rescaled as they go, as flash attention does."""
    top = torch.full_like(filled[..., :1], -torch.inf)
    total = torch.zeros_like(top)
    if filled.shape[-1] == 0:
        return filled
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
    Mutant("exp2_softmax", "honest", "uses exp2 of scores times log2(e)", softmax(lambda x: normalised((x * 1.4426950408889634).exp2())), honest=True),
    Mutant("late_normalisation", "honest", "rescales after the product with value", {"contract": _late}, honest=True),
    Mutant("keys_reversed", "honest", "sums over keys in the other order", {"contract": lambda self, weights, v: weights.flip(-1) @ v.flip(-2)}, honest=True),
    Mutant("key_chunks", "honest", "sums over chunks of keys", {"contract": _by_key_chunks}, honest=True),
    Mutant("query_chunks", "honest", "computes scores by chunks of queries", {"scores": _by_query_chunks}, honest=True),
    Mutant("scaled_query", "honest", "scales query instead of the scores", {"scores": lambda self, q, k, v: (q * self.factor(q, v)) @ k.mT}, honest=True),
    Mutant("scaled_both", "honest", "scales query and key by the root of the scale", {"scores": lambda self, q, k, v: (q * abs(self.factor(q, v)) ** 0.5) @ (k * abs(self.factor(q, v)) ** 0.5).mT * (1 if self.factor(q, v) >= 0 else -1)}, honest=True),
    Mutant("log_softmax", "honest", "takes exp of the log-softmax", {"softmax": lambda self, filled, keep: filled.log_softmax(-1).exp()}, honest=True),
    Mutant("narrow_arithmetic", "honest", "stays in the inputs' dtype, as the original", {"arrange": lambda self, q, k, v: tuple(x if n == 0 else self.spread(x, self.heads_first(q).shape[1]) for n, x in enumerate(map(self.heads_first, (q, k, v)))), "contract": lambda self, weights, v: weights.to(v.dtype) @ v, "logsumexp": lambda self, scores, keep: Port.logsumexp(self, scores.float(), keep)}, honest=True),
)  # fmt: skip
