"""`parity record` and `parity replay` from end to end: what run would say is said without the reference."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from parity import tensors
from parity.attention import Attention
from parity.criterion import attention as criterion
from parity.goldens import file
from parity.weights import files

ROOT = Path(__file__).parents[3]
CANDIDATES = Path(__file__).parents[1] / "candidates"
ATTENTION, MLP = ROOT / "tests" / "goldens" / "attention.safetensors", ROOT / "tests" / "goldens" / "mlp.safetensors"
PAIRS = ROOT / "examples" / "parity_golden.py"
WRONG = f"{ROOT / 'tests/parity/candidates/parity_golden.py'}:wrong_epsilon"

# Blocks torch and the reference in this process and, by PYTHONPATH, in its workers.
SITE = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "attend_torch"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
"""


@pytest.fixture
def replay(cli, tmp_path):
    """`parity replay …`, with its JSON report read."""

    def call(*arguments):
        path = tmp_path / "replayed.json"
        ran = cli("replay", *map(str, arguments), "--device", "cpu", "--json", str(path))
        if path.exists():
            ran.report.update(json.loads(path.read_text()))
        path.unlink(missing_ok=True)
        return ran

    return call


@pytest.fixture(scope="module")
def without_torch(tmp_path_factory):
    """A command where neither torch nor the reference can be imported."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "sitecustomize.py").write_text(SITE)

    def call(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "parity", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True,
            env=os.environ | {"PYTHONPATH": f"{folder}:{ROOT}", "JAX_PLATFORMS": "cpu", "HOME": str(folder)},
        )  # fmt: skip

    return call


def test_the_goldens_of_this_repository_are_met(replay):
    ran = replay(ATTENTION)
    assert ran.code == 0, ran.words
    assert len(ran.statuses) == 16
    assert set(ran.statuses.values()) == {"passed"}
    assert "judged by" in ran.words
    ran = replay(MLP, "--pair", PAIRS)
    assert (ran.code, set(ran.statuses.values())) == (0, {"passed"})


@pytest.mark.parametrize("golden", [ATTENTION, MLP], ids=["attention", "a pair"])
def test_they_are_met_where_there_is_no_torch(without_torch, golden):
    ran = without_torch("replay", golden)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "passed in" in ran.stdout


def test_the_blocker_blocks_and_a_pair_that_imports_torch_is_told_what_to_do(without_torch):
    ran = without_torch("run", "--case", "S1")
    assert (ran.returncode, "'attend_torch'" in ran.stderr) == (2, True)
    ran = without_torch("replay", MLP, "--pair", "examples/parity_blocks.py:mlp")
    assert ran.returncode == 2
    assert "needs 'torch', which is not installed. Only the Flax half is needed here" in ran.stderr


def test_a_wrong_port_is_caught_as_by_run(replay):
    ran = replay(ATTENTION, "--candidate", "flax_ports:UpperLeft", "--case", "S[348],*")
    assert ran.code == 1
    assert {(Attention.parse(name).rule, status) for name, status in ran.statuses.items()} == {
        ("S3", "passed"), ("S3", "failed"), ("S4", "failed"), ("S8", "passed"),
    }  # fmt: skip
    assert "causal is aligned to the upper left instead of the lower right corner" in ran.words
    (failure, *_) = (case for case in ran.report["cases"] if case["status"] == "failed")
    assert failure["command"].startswith(f"parity replay {ATTENTION} --case")
    again = replay(ATTENTION, "--case", failure["name"], "--candidate", "flax_ports:UpperLeft")
    assert again.statuses == {failure["name"]: "failed"}


def test_a_wrong_module_is_caught(replay):
    ran = replay(MLP, "--pair", WRONG, "--case", "*n=3")
    assert ran.statuses == {"parity_golden.mlp,batch=2,n=3": "failed"}
    assert f"--pair {WRONG}" in ran.report["cases"][0]["command"]


def test_what_was_recorded_is_judged_as_run_judges_it(cli, replay, tmp_path):
    """The same numbers, in bfloat16 and dropout too."""
    cases = (
        "S16,i=5,dtype=bfloat16,bias=hij,dropout=0.25",
        "S6,i=32,j=24,e=24,dropout=0.1,values=identity-value,kind=dropout",
    )
    for case in cases:
        golden = tmp_path / "g.safetensors"
        recorded = cli("record", str(golden), "--case", case, "--seed", "3")
        assert recorded.code == 0, recorded.words
        assert "recorded 1 of 1 cases" in recorded.words
        direct, again = cli("run", "--case", case, "--seed", "3", "--device", "cpu"), replay(golden)
        assert direct.report["cases"][0]["quantities"] == again.report["cases"][0]["quantities"]
        assert again.statuses == {case: "passed"}


def test_a_golden_comes_back_as_it_was(cli, tmp_path):
    golden = tmp_path / "g.safetensors"
    case = Attention(rule="S2", q_len=3, dtype="bfloat16", bias="hij", bias_dtype="float32", logsumexp=True)
    assert cli("record", str(golden), "--case", case.name).code == 0
    read = file.read(golden)
    (recording,) = read.recordings.values()
    made = tensors.make(case.case(), 0)
    assert recording.case == case.case()
    assert recording.arrays["reference/output"].dtype == ml_dtypes.bfloat16
    for name, array in made.items():
        assert recording.arrays["input/" + name].tobytes() == array.tobytes()
    for name, expected in criterion(case.case(), made).items():
        found = recording.expectations()[name]
        assert (found.dtype, found.shared, found.zero, found.vanishing) == (
            expected.dtype, expected.shared, expected.zero, expected.vanishing,
        )  # fmt: skip
        assert np.array_equal(found.truth, expected.truth)
        assert np.array_equal(found.width, expected.width)
    file.write(tmp_path / "again.safetensors", read)
    (arrays, metadata), (others, theirs) = (files.contents(path) for path in (golden, tmp_path / "again.safetensors"))
    assert metadata == theirs, "the checksum of the arrays, too"
    assert arrays.keys() == others.keys()
    assert read.provenance["command"].startswith("parity")
    assert {"date", "torch", "numpy", "commit"} <= set(read.provenance)


def test_what_the_reference_cannot_do_is_kept_in_its_words(cli, replay, tmp_path):
    golden = str(tmp_path / "g.safetensors")
    ran = cli("record", golden, "--suite", "tiny", "--case", "S[12],*", "--reference", "third_party:Attend")
    assert ran.code == 0
    ran = replay(golden)
    (skipped,) = (case for case in ran.report["cases"] if case["status"] == "skipped")
    assert skipped["reason"].startswith("the reference raised RuntimeError")
    ran = cli("record", golden, "--case", "S15,causal=1,lse=1", "--reference", "third_party:Attend")
    assert ran.code == 4
    assert "does not accept return_logsumexp" in ran.words
    assert len(file.read(golden).recordings) == 4, "nothing recorded, nothing overwritten"


def test_a_worker_that_dies_costs_its_case_only(cli, tmp_path):
    golden = tmp_path / "g.safetensors"
    ran = cli("record", str(golden), "--suite", "smoke", "--case", "S3*", "--reference", "odd:Dying")
    assert ran.code == 3
    assert "the worker died (exit code 7)" in ran.words
    assert list(file.read(golden).recordings) == ["S3,causal=1"]


BAD = [
    (("record", "no/folder/g.safetensors"), "there is no folder"),
    (("record", "g.safetensors", "--reference", "nonsense"), "expected [torch:|jax:]MODULE:NAME"),
    (("replay", "none.safetensors"), "could not read it: No such file"),
    (("replay", ATTENTION, "--case", "S99*"), "matches no case of"),
    (("replay", ATTENTION, "--pair", "parity_faults.py"), "is a golden of attention"),
    (("replay", ATTENTION, "--candidate", "functions:no_such"), "has no 'no_such'"),
    (("replay", MLP, "--implementation", "einsum"), "is a golden of pairs"),
    (("replay", MLP), "there is no file examples/parity_golden.py. Say with --pair where the pair is now"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "words"), BAD, ids=[words for _, words in BAD])
def test_bad_input_exits_2(cli, arguments, words):
    ran = cli(*map(str, arguments))
    assert ran.code == 2
    assert words in ran.words


def test_ctrl_c_keeps_what_there_is_beside_what_there_was(tmp_path):
    golden = tmp_path / "g.safetensors"
    golden.write_bytes(MLP.read_bytes())
    words = ["record", str(golden), "--suite", "smoke", "--case", "S3*", "--reference", "odd:Sleeping"]
    process = subprocess.Popen(
        [sys.executable, "-m", "parity", *words], cwd=CANDIDATES, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    with process:
        assert process.stdout.readline().split() == ["recorded", "S3,causal=1"]
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, "Traceback" in err) == (130, False)
    assert "recorded 1 of 1 cases in" in out
    assert golden.read_bytes() == MLP.read_bytes()
    assert list(file.read(tmp_path / "g.safetensors.partial").recordings) == ["S3,causal=1"]


def test_a_pair_that_cannot_be_made_costs_no_other(cli, tmp_path):
    golden = tmp_path / "g.safetensors"
    (tmp_path / "parity_no.py").write_text(
        "from parity import Input, Pair\nno = Pair(torch=lambda: 3, flax=lambda: 3, inputs={'x': Input('3')})\n"
    )
    pairs = [f"{tmp_path}/parity_no.py:no", f"{PAIRS}:mlp", "parity_faults.py:random"]
    ran = cli("record", str(golden), *(word for pair in pairs for word in ("--pair", pair)))
    assert ran.code == 3
    assert "expected a torch.nn.Module, got int" in ran.words
    assert "the torch module is random in evaluation" in ran.words
    read = file.read(golden)
    assert [reference.name for reference in read.references] == pairs[1:]
    assert [bool(recording.raised) for recording in read.recordings.values()] == [False, False, True]
    alone = cli("record", str(golden), "--pair", pairs[0])
    assert (alone.code, file.read(golden).recordings.keys()) == (2, read.recordings.keys())
    ran = cli("replay", str(golden), "--pair", f"{tmp_path}/parity_no.py:other")
    assert ran.code == 2
    assert "holds the pairs mlp, random; which one is it to be judged by?" in ran.words
    twice = cli("record", str(golden), "--pair", pairs[1], "--pair", "../../../examples/parity_golden.py:mlp")
    assert (twice.code, "two of the pairs have the name parity_golden.mlp" in twice.words) == (2, True)
