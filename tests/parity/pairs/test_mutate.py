"""`parity mutate --pair`: honest ports pass, wrong ones and planted faults are caught, and what is not says why."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from parity.pairs import planted

EXAMPLES = Path(__file__).parents[3] / "examples"


class Tiny(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.norm = nnx.LayerNorm(6, rngs=rngs)
        self.square = nnx.Linear(6, 6, rngs=rngs)
        self.norm.scale[...] = jnp.arange(1.0, 7.0)
        self.square.bias[...] = jnp.arange(6.0)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.square(self.norm(x))


NAMES = [name for name, _, _ in planted.plantable(Tiny())]
BACKWARD_ONLY = ("stopped gradient", "doubled gradient")


def test_every_fault_of_the_table_fits_somewhere_in_a_norm_and_a_square_layer():
    assert len(NAMES) == len(planted.FAULTS)


@pytest.mark.parametrize("name", NAMES)
def test_a_planted_fault_changes_the_output_or_the_gradient_and_no_parameter(name):
    x = jax.random.normal(jax.random.key(0), (3, 5, 6))
    right, wrong = Tiny(), Tiny()
    planted.plant(wrong, name)

    def results(module):
        graph, state = nnx.split(module)  # as the worker runs it: made anew within a trace
        weights = jax.random.normal(jax.random.key(1), x.shape)
        return module(x), jax.grad(lambda given: (jnp.sin(nnx.merge(graph, state)(given)) * weights).sum())(x)

    (output, gradient), (other, its) = results(right), results(wrong)
    assert bool((output == other).all()) == name.startswith(BACKWARD_ONLY)
    assert not (gradient == its).all()
    for one, same in zip(jax.tree.leaves(nnx.state(right)), jax.tree.leaves(nnx.state(wrong)), strict=True):
        assert (one == same).all()


def mutate(cli, tmp_path, *words):
    path = tmp_path / "mutate.json"
    ran = cli("mutate", *words, "--json", str(path))
    return ran, {row["port"]: row["outcome"] for row in json.loads(path.read_text())["ports"]} if path.exists() else {}


def test_honest_ports_pass_and_all_faults_are_caught(cli, tmp_path):
    ran, outcomes = mutate(cli, tmp_path, "--pair", f"{EXAMPLES}/parity_vision.py:video_block")
    assert ran.code == 0, ran.words
    assert outcomes.pop("the port") == outcomes.pop("honest: in blocks") == "passes"
    assert set(outcomes.values()) == {"caught"}
    assert len(outcomes) >= 10
    assert "honest ports: 0 of 2 rejected" in ran.words


def test_a_wrong_port_that_survives_and_a_faulty_honest_one_exit_1(cli, tmp_path):
    ran, outcomes = mutate(cli, tmp_path, "--pair", "parity_mutate.py:mixed_up", "--mutant", "[hw]*")
    assert ran.code == 1
    assert outcomes == {"the port": "passes", "honest: twice": "rejected", "wrong: as it should be": "no effect",
                        "wrong: by less than rounding": "survives"}  # fmt: skip
    assert "SURVIVED" in ran.words
    assert re.search(r"\S+: off by \S+, 0\.\d+ of the bound; the reference itself by up to \S+", ran.words)
    assert "REJECTED" in ran.words


def test_where_the_reference_raises_nothing_is_said_to_pass(cli, tmp_path):
    ran, outcomes = mutate(cli, tmp_path, "--pair", "parity_mutate.py:raising", "--mutant", "[hw]*")
    assert ran.code == 4
    assert outcomes == {"the port": "not judged"}
    assert "NOT JUDGED" in ran.words
