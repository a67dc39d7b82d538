"""A step of training: what honest ports keep and wrong ones do not. And modules that are told their dtype."""

from __future__ import annotations

import jax.numpy as jnp
import pytest
import torch
from flax import nnx

from parity.weights import transfer

FILE = "parity_train.py"
HONEST = ["both", "unbiased", "told"]
WRONG = {
    "biased": {"buffer(bn.running_var)"},
    "momentum": {"buffer(bn.running_mean)"},
    "momentum_linen": {"buffer(bn.running_mean)"},
}


@pytest.fixture
def run(cli):
    def call(*names, **options):
        words = [word for name in names for word in ("--pair", f"{FILE}:{name}")]
        words += [word for name, value in options.items() for word in (f"--{name}", str(value))]
        return cli("run", *words, "--device", "cpu")

    return call


def quantities(case, status="passed"):
    return {q["quantity"] for q in case["quantities"] if q["status"] == status}


def test_honest_ports_pass_a_step_of_training_with_their_buffers(run):
    ran = run(*HONEST)
    assert ran.code == 0, ran.words
    cases = {case["name"]: case for case in ran.report["cases"]}
    assert len(cases) == 4
    evaluated, trained = cases["parity_train.both,b=16"], cases["parity_train.both,b=16,mode=train"]
    assert quantities(trained) - quantities(evaluated) == {"buffer(bn.running_mean)"}
    assert "buffer(bn.running_var)" in quantities(cases["parity_train.unbiased,b=16,mode=train"])
    assert not any("num_batches" in name for case in cases.values() for name in quantities(case))
    assert trained["notes"] == [
        "differs on purpose: flax keeps the biased variance",
        "not compared, as the pair says: buffer(*_var)",
    ]


def test_wrong_conventions_are_caught_and_nothing_else_is_blamed(run):
    ran = run(*WRONG, "frozen")
    assert ran.code == 1
    for case in ran.report["cases"]:
        name = case["name"].split(",")[0].removeprefix("parity_train.")
        if name == "frozen":
            assert {"output", "dx", "d(fc.weight)"} <= quantities(case, "failed")
        else:
            assert quantities(case, "failed") == WRONG[name]


def test_16_bits_pass(run):
    ran = run("in_linen", dtype="bfloat16,float16", case="*mode=train")
    assert ran.code == 0, ran.words
    assert [*ran.statuses.values()] == ["passed", "passed"]


def test_a_module_that_takes_dtype_is_told_it_and_one_that_is_not_keeps_its_own(run):
    ran = run("embed", "embed_untold")
    told = {name: status for name, status in ran.statuses.items() if ".embed," in name}
    assert set(told.values()) == {"passed"}
    assert len(told) == 2
    (case,) = [case for case in ran.report["cases"] if case["status"] == "failed"]
    assert case["name"] == "parity_train.embed_untold,b=7,dtype=bfloat16"
    assert "the candidate has dtype float32, expected bfloat16" in case["reason"]


def test_a_parameter_without_axes_has_none_after_it_was_moved():
    class Torch(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor(3.0))

    class Flax(nnx.Module):
        def __init__(self) -> None:
            self.scale = nnx.Param(jnp.ones(()))

    moved = transfer(Torch(), Flax()).target.scale[...]
    assert moved.shape == ()
    assert moved == 3
