"""Random models, each side with names, numbers and an order of definition of its own: transferred right, or refused.

Nothing but the outputs decides what is right: every layer has weights of its own, so that exchanging two that shapes
cannot tell apart changes the result.
"""

from __future__ import annotations

import dataclasses
import random
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from parity.weights import PlanError, match, names, transfer
from tests.parity.weights.pairs import randomise

SIZE = 6  # one size for all: shapes tell nothing
# What people call the same thing. A few of them are no evidence, so that some models must be refused.
NAMES = {
    "query": ("q", "to_q", "q_proj", "wq", "query", "Query", "probe"),
    "key": ("k", "to_k", "k_proj", "wk", "key"),
    "value": ("v", "to_v", "v_proj", "wv", "value"),
    "out": ("out", "to_out", "o_proj", "wo", "out_proj", "output"),
    "attention": ("attn", "attention", "self_attn", "mha", "mixer"),
    "mlp": ("mlp", "ff", "ffn", "feed_forward", "feedforward"),
    "norm": ("norm", "ln", "layer_norm", "layernorm"),
    "encoder": ("encoder", "enc", "trunk"),
    "decoder": ("decoder", "dec"),
    "head": ("head", "classifier", "final"),
    "first": ("fc1", "linear1", "dense_1", "lin1", "fc_in"),
    "second": ("fc2", "linear2", "dense_2", "lin2", "fc_out"),
}
LISTS = ("layers", "blocks", "h", "stack", "cells")


@dataclasses.dataclass
class Node:
    """A part of a model: what it computes, its children by role, and its name on each side."""

    kind: str
    role: str
    children: list[Node] = dataclasses.field(default_factory=list)


def grow(rng: random.Random, role: str = "", depth: int = 0) -> Node:
    """A random tree: `chain` applies its children in turn, with unlike roles or in a list of like ones."""
    if role == "attention":
        return Node("attention", role, [Node("linear", name) for name in ("query", "key", "value", "out")])
    if role == "mlp":
        return Node("chain", role, [Node("linear", name) for name in ("first", "second")])
    if role in ("head", "norm"):
        return Node("linear" if role == "head" else "norm", role)
    if depth >= 3 or rng.random() < 0.3:
        roles = rng.sample(["attention", "mlp", "norm"], rng.randint(1, 3))
        return Node("chain", role, [grow(rng, name) for name in roles])
    if rng.random() < 0.6:
        like = grow(rng, "", depth + 1)
        return Node("list", role, [like] * rng.randint(2, 3))
    roles = rng.sample(["encoder", "decoder", "head", "mlp", "norm", "attention"], rng.randint(2, 4))
    return Node("chain", role, [grow(rng, name, depth + 1) for name in roles])


class Torch:
    """How a side makes its modules; `Nnx` is the other."""

    tanh, softmax = staticmethod(torch.tanh), staticmethod(lambda x: torch.softmax(x, -1))

    def linear(self):
        return torch.nn.Linear(SIZE, SIZE)

    def norm(self):
        return torch.nn.LayerNorm(SIZE)

    def group(self):
        return torch.nn.Module()

    def sequence(self, items):
        return torch.nn.ModuleList(items)


class Nnx:
    tanh, softmax = staticmethod(jnp.tanh), staticmethod(lambda x: jax.nn.softmax(x, -1))

    def linear(self):
        return nnx.Linear(SIZE, SIZE, rngs=nnx.Rngs(0))

    def norm(self):
        return nnx.LayerNorm(SIZE, epsilon=1e-5, rngs=nnx.Rngs(0))

    def group(self):
        return nnx.Module()

    def sequence(self, items):
        return nnx.List(items)


def build(node: Node, side: Torch | Nnx, rng: random.Random):
    """The module of a side and its function, with names and order from `rng`; the same for all of a list's."""
    if node.kind in ("linear", "norm"):
        module = getattr(side, node.kind)()
        return module, module
    if node.kind == "list":
        seed = rng.random()
        built = [build(child, side, random.Random(seed)) for child in node.children]
    else:
        built = [build(child, side, rng) for child in node.children]
    functions = [function for _, function in built]
    group = side.group()
    if node.kind == "list":
        name, start = rng.choice(LISTS), rng.randint(0, 1)
        if rng.random() < 0.5:
            setattr(group, name, side.sequence([module for module, _ in built]))
        else:
            for index, (module, _) in enumerate(built):
                setattr(group, f"{name}_{index + start}", module)
    else:
        pairs = list(zip(node.children, built, strict=True))
        rng.shuffle(pairs)
        numbered = node.role == "mlp" and rng.random() < 0.7
        style = rng.randrange(4)
        for child, (module, _) in pairs:
            setattr(group, NAMES[child.role][style] if numbered else rng.choice(NAMES[child.role]), module)

    def attend(x):
        q, k, v, out = (f for f in functions)
        scores = side.softmax(q(x) @ k(x).swapaxes(-1, -2))
        return x + out(scores @ v(x))

    def chain(x):
        for index, function in enumerate(functions):
            x = x + side.tanh(function(x)) * (0.5 + 0.1 * index)
        return x

    return group, attend if node.kind == "attention" else chain


def outcome(seed: int) -> str:
    """ "equal", "refused" or "wrong"."""
    rng = random.Random(seed)
    node = grow(rng)
    model, run = build(node, Torch(), rng)
    port, run_port = build(node, Nnx(), rng)
    randomise(model, seed)
    try:
        transfer(model, port)
    except PlanError as error:
        kinds = {problem.kind for problem in error.problems}
        return "refused" if kinds <= {"ambiguous", "crossing"} else f"{kinds}"
    x = np.random.default_rng(seed).standard_normal((3, 4, SIZE), np.float32)
    with torch.no_grad():
        expected = run(torch.from_numpy(x)).numpy()
    difference = np.abs(np.asarray(run_port(jnp.asarray(x))) - expected).max()
    return "equal" if difference < 1e-4 * max(1, np.abs(expected).max()) else "wrong"


SEEDS = range(60)


@pytest.fixture(scope="module")
def outcomes():
    return [outcome(seed) for seed in SEEDS]


def test_no_model_is_transferred_wrong(outcomes):
    assert [seed for seed, result in zip(SEEDS, outcomes, strict=True) if result == "wrong"] == []


def test_most_models_are_transferred_and_some_are_refused(outcomes):
    assert outcomes.count("equal") > 0.5 * len(SEEDS)
    assert outcomes.count("refused") > 0.05 * len(SEEDS)


def test_pairing_by_order_of_definition_would_be_noticed(monkeypatch):
    """The check can fail: with a matcher that guesses, models come out wrong."""

    def guess(torch_layers, flax_layers):
        left, pairs = list(flax_layers), []
        for layer in torch_layers:
            other = next(other for other in left if match.kinds.steps(layer, other))
            left.remove(other)
            pairs.append(match.Pair(layer, other, "the only one"))
        return match.Matching(tuple(pairs), (), (), ())

    monkeypatch.setattr(sys.modules["parity.weights.plan"], "match", guess)
    assert sum(outcome(seed) == "wrong" for seed in range(12)) > 3


def test_pairing_by_likeness_of_words_would_be_noticed(monkeypatch):
    """As would names whose synonyms are taken for one another."""
    monkeypatch.setitem(names._CANONICAL, "wk", "value")
    monkeypatch.setitem(names._CANONICAL, "wv", "key")
    assert "wrong" in [outcome(seed) for seed in range(30)]
