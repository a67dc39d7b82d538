"""What cannot be judged is named in its own words: where the module is called, and where a whole run meets it."""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest

from parity.pairs import load
from parity.pairs.cases import cases
from parity.pairs.messages import PairJob, PairSide
from parity.process import _ending

FILE = "parity_hopeless.py"

REFUSED = [
    ("torch", "drops", "random in training: two calls with equal inputs differ in output (dropout: `drop` has 0.5)"),
    ("flax", "flax_drops", "the flax module is random in training: two calls with equal inputs differ in output (drop"),
    ("flax", "random", "the flax module is random in evaluation: two calls with equal inputs differ in output; seed"),
    ("torch", "grows", "the torch module has other parameters after a call than before: late; make them in its"),
    ("torch", "writes", "the torch module changes its input 'x' in place; let it work on a copy"),
    ("flax", "flax_grows", "the flax module has other parameters after a call than before: late; make them in its"),
]


@pytest.fixture
def side(monkeypatch, tmp_path):
    """One side of a planted pair in this process, and its first case."""
    from tests.parity.conftest import CANDIDATES

    monkeypatch.setattr(sys, "path", [*sys.path])

    def make(framework, name):
        spec = f"{CANDIDATES / FILE}:{name}"
        pair = load.load(spec)
        from parity.pairs import flax_side, torch_side

        made = (torch_side if framework == "torch" else flax_side).Made(pair, PairSide(spec, framework))
        (case,) = cases(spec, pair, ())
        path = tmp_path / "weights.safetensors"
        if framework == "flax":
            from parity.weights import files
            from parity.weights import flax_side as weights

            files.write(path, weights.arrays(made.module))
        return made, PairJob(0, case, {"x": np.ones((4, 6), np.float32)}, str(path))

    return make


@pytest.mark.parametrize(("framework", "name", "words"), REFUSED, ids=[name for _, name, _ in REFUSED])
def test_a_module_that_is_no_function_is_told_so(side, framework, name, words):
    made, job = side(framework, name)
    with pytest.raises(ValueError, match=re.escape(words)):
        made.run(job)


WORDS = {
    "right": ("passed", ""),
    "named": ("failed", "the torch module returns output.hidden, output.logits, the Flax one output; let torch_call"),
    "nan": ("inconclusive", "output: 20 of 20 are NaN on both sides, which proves nothing"),
    "aborts": ("error", "candidate: the worker died (killed by SIGABRT)"),
    "greedy": ("error", "the flax module ran out of memory: MemoryError: a table of everything"),
    "torch_greedy": ("error", "the torch module ran out of memory: RuntimeError"),
    "wrong_size": ("skipped", "mat1 and mat2 shapes cannot be multiplied (4x7 and 6x5) (called with x (4, 7) float32)"),
    "lazy": ("failed", "`linear.weight` has no shape yet: run the torch module once on an example"),
    "nothing": ("inconclusive", "nothing is left to compare: the pair ignores all there is"),
}


def test_each_trouble_has_its_words_and_costs_no_other_pair(cli):
    ran = cli("run", *(word for name in WORDS for word in ("--pair", f"{FILE}:{name}")), "--device", "cpu")
    assert ran.code == 3
    found = {case["name"].split(",")[0].removeprefix("parity_hopeless."): case for case in ran.report["cases"]}
    assert set(found) == set(WORDS)
    for name, (status, words) in WORDS.items():
        assert found[name]["status"] == status, found[name]
        assert words in found[name]["reason"], found[name]


def test_a_process_that_is_gone_says_how():
    assert _ending(7) == "exit code 7"
    assert _ending(-11) == "killed by SIGSEGV"
    assert _ending(-9) == "killed by SIGKILL, perhaps by the system for its memory"
