"""The module that is wrong is named, those behind it pass the error on, and honest ports have none."""

from __future__ import annotations

import pytest

from parity.trace.results import DIFFERS, HOLDS, PASSES, WRONG
from parity.trace.terminal import answer

from .conftest import EXAMPLES

BLOCKS = EXAMPLES / "parity_blocks.py"


def states(trace, *, backward=False):
    return {row.call.torch: (row.backward if backward else row.forward).state for row in trace.rows}


def with_state(trace, state, *, backward=False):
    return [call for call, other in states(trace, backward=backward).items() if other == state]


@pytest.mark.parametrize("name", ["mlp", "encoder", "conv_block"])
def test_the_examples_have_no_divergence(trace, name):
    found = trace(name, BLOCKS)
    assert found.status == "passed", answer(found)
    assert answer(found).startswith("no divergence: ")
    assert set(states(found).values()) | set(states(found, backward=True).values()) == {"agrees"}


@pytest.mark.parametrize("name", ["right", "linen_right", "convs_right"])
def test_honest_ports_have_no_divergence(trace, name):
    found = trace(name)
    assert found.status == "passed", answer(found)
    assert set(states(found).values()) | set(states(found, backward=True).values()) == {"agrees"}


def test_in_16_bits_too(trace):
    found = trace("right", dtype="bfloat16")
    assert found.first is None, answer(found)


def test_a_residual_that_is_added_elsewhere_is_no_divergence(trace):
    found = trace("residual")
    assert found.status == "passed", answer(found)
    assert with_state(found, DIFFERS) == ["blocks.0#0", "blocks.1#0", "blocks.2#0"]


@pytest.mark.parametrize(
    ("name", "module", "cause"),
    [
        ("epsilon", "blocks.1.norm", "epsilon 1e-05 against 1e-06"),
        ("linen_epsilon", "blocks.1.norm", "epsilon 1e-05 against 1e-06"),
        ("tanh", "blocks.1", ""),
        ("defaults", "blocks.1", "GELU exact against tanh"),
        ("unbiased", "blocks.1.mix", "the bias is left out"),
        ("scaled", "blocks.1", ""),
        ("doubled", "blocks.1.out", "the output is 1.01 times what it should be"),
        ("jitted", "blocks.1", "GELU exact against tanh"),
        ("transposed", "blocks.1.mix", "the weight is transposed"),
        ("padding", "second", "padding 1,1 against SAME"),
        ("smaller", "second", "padding 1,1 against 0"),
        ("outside", "", ""),
    ],
)
def test_the_wrong_module_is_named(trace, name, module, cause):
    found = trace(name)
    assert found.status == "failed"
    assert found.first.call.where == module
    assert not found.backward
    assert found.cause == cause
    assert with_state(found, WRONG) == [found.first.call.torch]


def test_what_comes_later_passes_it_on(trace):
    found = trace("epsilon")
    later = [f"blocks.2{name}#0" for name in (".norm", ".mix", ".out", ".drop", "")]
    assert with_state(found, PASSES) == ["blocks.1.mix#0", "blocks.1.out#0", "blocks.1.drop#0", *later, "head#0"]
    assert with_state(found, HOLDS) == ["blocks.1#0", "#0"]
    assert with_state(found, "agrees") == [f"blocks.0{name}#0" for name in (".norm", ".mix", ".out", ".drop", "")]


@pytest.mark.parametrize(
    ("name", "module", "cause"),
    [
        ("stopped", "blocks.1", "gradient stopped in its code: no against yes"),
        ("frozen", "blocks.1.mix", "d(blocks.1.mix.weight) is zero"),
    ],
)
def test_a_wrong_gradient_is_found_on_the_way_back(trace, name, module, cause):
    found = trace(name)
    assert (found.first.call.where, found.backward) == (module, True)
    assert cause in found.cause
    assert set(states(found).values()) == {"agrees"}
    assert "first bad module on the way back" in answer(found)
    assert "its output's gradient agrees" in answer(found)


def test_where_in_a_container(trace):
    assert "it starts before blocks.1.out (error/bound" in answer(trace("tanh"))
    assert "it starts before head (error/bound" in answer(trace("outside"))


def test_each_call_of_a_shared_module(trace):
    found = trace("shared")
    assert with_state(found, WRONG) == ["block.norm#0", "block.norm#1"]
    assert found.first.call.torch == "block.norm#0"


def test_what_has_no_counterpart_is_listed(trace):
    assert trace("convs_right").left_out == ("act (ReLU): no counterpart in Flax",)
    assert "blocks.1.mix <-> blocks.1.mix: called once in torch, never in Flax" in " ".join(trace("jitted").left_out)


def test_a_pass_leaves_nothing_behind(monkeypatch):
    """Ten are made in float64; a graph that stays is as large as all activations."""
    import gc
    import weakref

    from parity import tensors
    from parity.pairs.cases import cases
    from parity.pairs.load import load
    from parity.pairs.messages import PairSide
    from parity.trace.messages import TraceJob
    from parity.trace.torch_side import Made, Watch

    spec = f"{BLOCKS}:encoder"
    made, (case, *_) = Made(load(spec), PairSide(spec, "torch")), cases(spec, load(spec), ())
    seen = []
    kept = Watch._seen

    def spied(watch, role, call, value):
        aliased = kept(watch, role, call, value)
        seen.extend(weakref.ref(leaf) for leaf in _tensors(aliased))
        return aliased

    monkeypatch.setattr(Watch, "_seen", spied)
    made._step(TraceJob(0, case, tensors.make(case, 0)), made._made.module, None)
    gc.collect()
    assert len(seen) > 20
    assert not [reference for reference in seen if reference() is not None]


def _tensors(value):
    import torch
    from torch.utils import _pytree

    return [leaf for leaf in _pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor) and leaf.requires_grad]
