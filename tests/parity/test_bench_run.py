"""`parity bench` from end to end, on rows too small to say anything about speed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from parity.attention import Attention
from parity.bench import command
from parity.bench.json import read
from parity.bench.messages import Inspect, Inspected, Task, Time, Timed, Unable
from parity.bench.process import Host
from parity.bench.rows import BOTH, FORWARD

TINY = "mine,i=5,j=7,causal=1,bias=hij"


def test_a_small_bench_from_end_to_end(cli, tmp_path):
    path, plot = tmp_path / "bench.json", tmp_path / "plot.svg"
    words = ("bench", "--row", TINY, "--repeats", "2", "--json", str(path), "--device", "cpu", "--contender", "*a[tu]*")
    ran = cli(*words, "--plot", str(plot))
    assert ran.code == 0
    assert plot.read_text().startswith("<?xml")
    document = json.loads(path.read_text())
    assert document["command"].startswith(f"parity bench --row {TINY} --contender '*a[tu]*' --device cpu --repeats 2")
    assert "commit" in document["environment"]
    assert {"torch", "jax", "cpus"} <= set(document["environment"])
    report = read(path)
    assert [race.mode for race in report.races] == [FORWARD, BOTH]
    for race in report.races:
        by_name = {found.contender: found for found in race.measurements}
        assert set(by_name) == {"torch/sdpa-math", "ours/auto", "ours/auto-bnhd"}
        assert {found.status for found in race.measurements} == {"timed"}
        for found in race.measurements:
            assert len(found.samples) == 2
            assert min(found.samples) > 0
            assert found.memory is not None
            assert found.errors[0].roundings < 16
            assert [error.quantity for error in found.errors] == ["output", "dquery"][: 1 + (race.mode == BOTH)]
        assert by_name["torch/sdpa-math"].counts
        assert not by_name["ours/auto"].counts
        assert "runs: " in by_name["ours/auto"].note
        assert by_name["ours/auto"].runs
    assert TINY in ran.words
    assert "error of every ours/*, in roundings" in ran.words


def test_every_contender_answers_or_says_why_not(cli, tmp_path):
    """With every name of our dispatch table; whoever cannot says so in its own words."""
    from attend_jax import dispatch

    path = tmp_path / "bench.json"
    ran = cli("bench", "--row", TINY, "--repeats", "1", "--mode", "forward", "--json", str(path), "--quiet", "--check")
    (race,) = read(path).races
    names = {found.contender for found in race.measurements}
    assert {f"ours/{name}" for name in dispatch.NAMES} <= names
    assert {"torch/einsum", "torch/sdpa", "torch/sdpa-math", "torch/sdpa-flash", "jax.nn/xla", "flax/nnx"} <= names
    assert not names & {"torch/flex", "torch/compiled-einsum", "jax.nn/cudnn"}, "these are for a GPU"
    assert race.get("ours/cudnn").status == "refused"
    assert "takes float16 and bfloat16 only" in race.get("ours/cudnn").words
    for found in race.measurements:
        assert found.words if found.status in ("refused", "raised") else found.errors[0].roundings < 16
    assert ran.code in (0, 1)  # whether a goal of speed is met on a row like this is no matter
    assert f"{TINY} forward" not in ran.words, "--quiet"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--row", "no-such*"), "--row 'no-such*' matches no row; there are"),
        (("--device", "tpu"), "--device must be cpu or gpu; got 'tpu'"),
        (("--mode", "backward"), "--mode must be forward or both; got 'backward'"),
        (("--dtype", "float64"), "--dtype must be one or more of float32, bfloat16, float16"),
        (("--plot", "plot.gif"), "--plot must end in .png or .svg; got 'plot.gif'"),
        (("--json", "no/such/folder.json"), "--json: there is no folder no/such"),
        (("--repeats", "0"), "--repeats"),
    ],
)
def test_bad_input_is_2_before_anything_starts(cli, monkeypatch, arguments, words):
    monkeypatch.setattr(command, "Host", None)
    ran = cli("bench", *arguments)
    assert ran.code == 2
    assert words in ran.words


def test_a_contender_that_nobody_is_is_2(cli):
    ran = cli("bench", "--device", "cpu", "--contender", "tensorflow/*", "--row", TINY)
    assert ran.code == 2
    assert "--contender 'tensorflow/*' matches nobody; on cpu there are torch/einsum, torch/sdpa," in ran.words


def test_a_gpu_that_is_not_there_is_2(cli):
    ran = cli("bench", "--device", "gpu")
    assert ran.code == 2
    assert "the torch side of the bench cannot start: --device gpu: torch sees no GPU here" in ran.words


def test_a_worker_that_is_late_or_dies_is_replaced_and_goes_on():
    task = Task(Attention(), FORWARD, "torch/sdpa")
    host = Host("torch", "cpu")
    try:
        late = host.ask(Inspect(task), 0.0)
        assert (late, late.status) == (Unable("no answer in 0 s", "lost"), "lost")
        assert isinstance(host.ask(Time(task), 60), Timed), "a task says everything"
        os.kill(host._process.pid, signal.SIGKILL)
        assert host.ask(Time(task), 60) == Unable("the worker died (exit code -9)", "lost")
        assert isinstance(host.ask(Inspect(task, ((0, 0),), (0, 2)), 60), Inspected)
    finally:
        host.close()


def test_a_contender_that_would_take_too_much_memory_is_not_tried():
    host = Host("torch", "cpu")
    try:
        huge = Attention(batch=1, heads=1, kv_heads=1, q_len=2**20, kv_len=2**20, head_dim=1, value_dim=1)
        answer = host.ask(Inspect(Task(huge, FORWARD, "torch/einsum")), 60)
    finally:
        host.close()
    assert (answer.status, answer.words.split(",")[0]) == ("skipped", "it would take about 12288.0 GiB")


def test_ctrl_c_is_130_and_writes_what_was_measured(tmp_path):
    path = tmp_path / "bench.json"
    words = ["bench", "--row", "tiny*", "--contender", "torch/sdpa", "--repeats", "1000", "--json", str(path)]
    process = subprocess.Popen(
        [sys.executable, "-c", _ANNOUNCED, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout.readline() == "timing\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "interrupted" in out
    report = read(path)
    assert report.interrupted
    assert len(report.races) == 1
    assert 0 < len(report.races[0].measurements[0].samples) < 1000


# `parity`, saying when the first sample is there.
_ANNOUNCED = """
import sys
from parity.bench import measure

sample = measure.Runner.sample
def announced(self):
    sample(self)
    if len(self.measurement.samples) == 1:
        print("timing", flush=True)
measure.Runner.sample = announced

from parity.cli import main
main(sys.argv[1:])
"""
