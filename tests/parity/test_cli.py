"""`parity` from end to end: what it prints, writes and exits with."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from parity import tensors
from parity.attention import Attention

CANDIDATES = Path(__file__).parent / "candidates"
PORT = ("--candidate", "parity.mutants:plain_port")


def test_attend_jax_passes_smoke(cli):
    """The product's main claim, with no arguments but the suite."""
    ran = cli("run", "--suite", "smoke")
    assert ran.code == 0
    assert set(ran.statuses.values()) == {"passed"}
    assert len(ran.statuses) == 18
    assert "18 passed" in ran.words
    assert ran.report["cases"][0]["reference"] == "attend_torch:Attend"
    assert ran.report["cases"][0]["candidate"] == "attend_jax:Attend"


def test_a_wrong_port_to_flax_exits_1_and_says_what_to_act_on(cli):
    ran = cli("run", "--suite", "smoke", "--case", "S[38],*", "--candidate", "flax_ports:UpperLeft", "--device", "cpu")
    assert ran.code == 1
    wide = "S3,j=17,causal=1,bias=hij"
    assert ran.statuses == {"S3,causal=1": "passed", wide: "failed", "S8,j=17,flash=1,causal=1": "passed"}
    (failure,) = (case for case in ran.report["cases"] if case["name"] == wide)
    output = failure["quantities"][0]
    at = ", ".join(map(str, output["worst_index"]))
    for number in ("candidate", "reference", "truth"):
        assert f"{number} {output[number]:.9g}" in ran.words
    assert f"worst at [{at}]" in ran.words
    assert "causal is aligned to the upper left instead of the lower right corner" in ran.words
    assert failure["command"] in ran.words
    assert "1 failed" in ran.words


def test_linen_and_a_reference_of_somebody_else(cli):
    """Neither side is ours."""
    ran = cli(
        "run", "--suite", "smoke", "--case", "S[13]*", "--reference", "third_party:Attend", "--candidate",
        "flax_ports:Linen",
    )  # fmt: skip
    assert ran.code == 0
    assert ran.statuses["S3,causal=1"] == ran.statuses["S1"] == "passed"
    assert ran.statuses["S12,flash=1,bias=hij,mask=bhij"] == "skipped"


def test_the_original_as_reference_passes_with_skips(cli):
    ran = cli("run", "--suite", "smoke", "--reference", "third_party:Attend", *PORT)
    assert ran.code == 0
    assert {ran.statuses[name] for name in ("S1", "S7,kv=1", "S3,causal=1", "S8,j=17,flash=1,causal=1")} == {"passed"}
    reasons = {case["name"]: case["reason"] for case in ran.report["cases"] if case["status"] == "skipped"}
    assert reasons["S15,causal=1,lse=1"] == "the reference does not accept return_logsumexp"
    assert reasons["S2,dtype=bfloat16,bias=hij,bias_dtype=float32"].startswith("the reference raised RuntimeError")
    assert "skipped S15,causal=1,lse=1 the reference does not accept return_logsumexp" in ran.words
    assert set(ran.statuses.values()) == {"passed", "skipped"}


def test_all_skipped_is_4(cli):
    ran = cli("run", "--suite", "smoke", "--case", "S15*", "--reference", "third_party:Attend", *PORT)
    assert (ran.code, set(ran.statuses.values())) == (4, {"skipped"})


def test_a_worker_that_dies_is_3_and_the_rest_is_judged(cli):
    ran = cli("run", "--suite", "smoke", "--case", "S[23],*", "--dtype", "float32", "--candidate", "odd:Dying")
    assert ran.code == 3
    assert ran.statuses == {
        "S2,bias=hij": "error", "S2,j=17,bias=b1ij": "error", "S3,causal=1": "passed",
        "S3,j=17,causal=1,bias=hij": "error",
    }  # fmt: skip
    assert "candidate: the worker died (exit code 7)" in ran.words


def test_a_timeout_is_3_and_the_rest_is_judged(cli):
    ran = cli("run", "--suite", "smoke", "--case", "S3,*", "--candidate", "odd:Sleeping", "--timeout", "6")
    assert (ran.code, sorted(ran.statuses.values())) == (3, ["error", "passed"])
    assert "candidate: no answer in 6 s" in ran.words


def test_a_reference_that_departs_is_4(cli):
    ran = cli("run", "--case", "S1", "--reference", "parity.mutants:scale_missing", *PORT)
    assert (ran.code, ran.statuses) == (4, {"S1": "inconclusive"})
    assert "the reference is off by" in ran.words


def test_shards_share_out_all_cases_and_one_may_be_empty(cli, monkeypatch):
    from parity import pipeline

    monkeypatch.setattr(pipeline, "Session", None)
    empty = cli("run", "--case", "S1", "--shard", "2/2")
    assert (empty.code, empty.statuses) == (0, {})
    fuzzed = cli("run", "--fuzz", "1", "--shard", "2/2")
    assert (fuzzed.code, fuzzed.statuses) == (0, {})


def test_a_shard_runs_its_part(cli):
    ran = cli("run", "--suite", "smoke", "--shard", "2/9", *PORT)
    names = [name for name in cli("list", "--suite", "smoke").out.split() if name]
    assert list(ran.statuses) == names[1::9]


def test_ctrl_c_is_130_with_a_report_of_what_was_done(tmp_path):
    path = tmp_path / "report.json"
    words = ["run", "--suite", "smoke", "--case", "S3,*", "--candidate", "odd:Sleeping", "--json", str(path)]
    names = ["S3,causal=1", "S3,j=17,causal=1,bias=hij"]
    process = subprocess.Popen(
        [sys.executable, "-m", "parity", *words],
        cwd=CANDIDATES,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout.readline().split()[:2] == ["passed", names[0]]
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "interrupted" in out
    report = json.loads(path.read_text())
    assert report["interrupted"]
    assert [case["name"] for case in report["cases"]] == names[:1]


def test_fuzzing_shrinks_a_failure_to_a_command_that_fails_again(cli):
    wrong = ("--candidate", "parity.mutants:causal_strict")
    ran = cli("run", "--fuzz", "6", "--seed", "1", *wrong, "--dtype", "float32")
    assert ran.code == 1
    shrunk = [case for case in ran.report["cases"] if case["name"].split(",")[0].endswith("-shrunk")]
    assert shrunk
    small = Attention.parse(shrunk[0]["name"])
    assert small.causal
    assert (small.bias, small.mask, small.batch, small.heads, small.head_dim) == (None, None, 1, 1, 1)
    assert max(small.q_len, small.kv_len) <= 3
    assert shrunk[0]["reason"].startswith("shrunk from fuzz-")
    program, *arguments = shlex.split(shrunk[0]["command"])
    assert program == "parity"
    assert shrunk[0]["command"] in ran.words
    again = cli(*arguments)
    assert (again.code, again.statuses) == (1, {small.name: "failed"})


def test_saved_failures_load_and_are_the_inputs(cli, tmp_path):
    folder = tmp_path / "deep" / "failures"
    case = "S12-empty,dtype=bfloat16,mask=b1ij,values=empty-row"
    ran = cli("run", "--case", case, "--candidate", "parity.mutants:mask_inverted", "--save-failures", str(folder))
    assert ran.code == 1
    (path,) = folder.iterdir()
    assert path.name == f"{case}.safetensors"
    saved, made = load_file(path), tensors.make(Attention.parse(case).case(), 0)
    assert saved.keys() == made.keys()
    for name, array in made.items():
        assert saved[name].dtype == array.dtype
        np.testing.assert_array_equal(saved[name], array)


def test_reports_of_a_run_are_written_where_asked_and_nowhere_else(cli, tmp_path):
    before = sorted(path for path in CANDIDATES.rglob("*") if "__pycache__" not in path.parts)
    json_path, junit_path = tmp_path / "a.json", tmp_path / "b.xml"
    ran = cli("run", "--case", "S1", *PORT, "--json", str(json_path), "--junit", str(junit_path), "--quiet")
    assert ran.code == 0
    assert json.loads(json_path.read_text())["exit_code"] == 0
    assert '<testcase classname="parity.parity.mutants:plain_port.auto" name="S1"' in junit_path.read_text()
    assert ran.out.strip().splitlines()[0].startswith("1 passed")
    assert sorted(path for path in CANDIDATES.rglob("*") if "__pycache__" not in path.parts) == before


def test_a_fault_of_our_own_is_3_and_not_1(cli, monkeypatch):
    from parity import suites

    monkeypatch.setattr(suites, "suite", lambda name: 1 / 0)
    ran = cli("list")
    assert ran.code == 3
    assert "fault of parity itself" in ran.err
