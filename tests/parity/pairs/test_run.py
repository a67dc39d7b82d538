"""`parity run --pair` from end to end: honest ports pass, wrong ones fail, and what cannot be judged says why."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.numpy import load_file

EXAMPLES = Path(__file__).parents[3] / "examples"
FAULTS = "parity_faults.py"


@pytest.fixture
def run(cli):
    def call(*pairs, **options):
        words = [word for pair in pairs for word in ("--pair", pair)]
        words += [word for name, value in options.items() for word in (f"--{name}", str(value))]
        return cli("run", *words, "--device", "cpu")

    return call


def only(ran):
    (case,) = ran.report["cases"]
    return case


def test_the_examples_pass_in_two_dtypes(run):
    ran = run(f"{EXAMPLES}/parity_blocks.py", dtype="float32,bfloat16")
    assert ran.code == 0, ran.words
    assert set(ran.statuses.values()) == {"passed"}
    assert len(ran.statuses) == 10
    quantities = {q["quantity"] for case in ran.report["cases"] for q in case["quantities"]}
    assert {"output", "dx", "d(up.weight)", "d(attentions.1.in_proj_weight)", "d(conv2.bias)"} <= quantities


@pytest.mark.parametrize(
    ("name", "quantity"),
    [("epsilon", "output"), ("tanh", "output"), ("no_bias", "d(first.bias)"), ("transposed", "output")],
)
def test_a_planted_fault_is_caught(run, name, quantity):
    ran = run(f"{FAULTS}:{name}")
    assert ran.code == 1
    failed = {q["quantity"] for q in only(ran)["quantities"] if q["status"] == "failed"}
    assert quantity in failed
    assert only(ran)["command"] in ran.words


def test_what_differs_on_purpose_stands_in_the_report(run):
    ran = run(f"{FAULTS}:right")
    assert ran.code == 0
    assert only(ran)["notes"] == ["differs on purpose: the torch module is called Torch"]
    assert "differs on purpose: the torch module is called Torch" in ran.words


WORDS = {
    "two": ("failed", "the candidate returned nothing for this"),
    "short": ("failed", "the candidate has shape (5, 5), expected (5, 7)"),
    "raises": ("failed", "the candidate raised RuntimeError: no luck today"),
    "small": ("failed", "second"),
    "dies": ("error", "candidate: the worker died (exit code 9)"),
    "sleeps": ("error", "candidate: no answer in 10 s"),
    "random": ("skipped", "the torch module is random in evaluation: two calls with equal inputs differ in output"),
    "in_place": ("skipped", "the torch module changes its input 'x' in place"),
    "not_a_module": ("failed", "expected an nnx.Module or a linen.Module, got ArrayImpl"),
}


def test_what_cannot_be_judged_is_named_in_its_own_words_and_costs_no_other_pair(run):
    ran = run(*(f"{FAULTS}:{name}" for name in WORDS), f"{FAULTS}:right", timeout=10)
    assert ran.code == 3
    for case in ran.report["cases"]:
        name = case["name"].split(",")[0].removeprefix("parity_faults.")
        status, words = WORDS.get(name, ("passed", ""))
        assert case["status"] == status, case
        said = case["reason"] + " ".join(q["reason"] for q in case["quantities"])
        assert words in said, case
    assert len(ran.report["cases"]) == len(WORDS) + 1


BAD_INPUT = [
    ("no_such.py", "there is no file no_such.py"),
    (f"{FAULTS}:rigth", "there is no parity.Pair 'rigth' in it; it has right"),
    ("functions.py", "it holds no parity.Pair at its top level"),
    ("parity_broken.py", "ZeroDivisionError: division by zero"),
    ("no.such.module:pair", "there is no module 'no'"),
]


@pytest.mark.parametrize(("pair", "words"), BAD_INPUT, ids=[pair for pair, _ in BAD_INPUT])
def test_bad_input_exits_2_with_the_users_own_traceback(run, pair, words):
    ran = run(pair)
    assert ran.code == 2
    assert words in ran.words
    assert "parity/pairs/load.py" not in ran.words


def test_one_case_of_a_pair_can_be_run_again(run):
    pair = f"{EXAMPLES}/parity_blocks.py:mlp"
    ran = run(pair, case="parity_blocks.mlp,b=2,n=17")
    assert list(ran.statuses) == ["parity_blocks.mlp,b=2,n=17"]
    assert run(pair, case="parity_blocks.mlp,b=3").code == 2


def test_the_tensors_of_a_failed_case_are_saved(run, tmp_path):
    ran = run(f"{FAULTS}:tanh", **{"save-failures": tmp_path})
    assert load_file(tmp_path / f"{only(ran)['name']}.safetensors")["x"].shape == (5, 12)
