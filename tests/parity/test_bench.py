"""The bench without a clock: rows, statistics, the order of measuring, truth on a sample, goals, JSON, table, plot."""

from __future__ import annotations

import dataclasses
import json as plain_json

import numpy as np
import pytest

from parity import tensors, truth
from parity.attention import DTYPES, Attention
from parity.bench import goals, inputs, json, measure, plot, rows, statistics, table
from parity.bench.accuracy import Error, Truth
from parity.bench.messages import Contender, Hello, Inspect, Inspected, Time, Timed, Unable
from parity.bench.results import BenchReport, Measurement, Race
from parity.bench.rows import BOTH, FORWARD, MODES, Row
from parity.errors import BadInput

MIB = 2**20


# Rows.


def test_every_row_has_a_name_of_its_own_that_says_everything():
    for device in ("cpu", "gpu"):
        chosen = rows.choose(device, None, (), sweep=True)
        assert len({row.name for row in chosen}) == len(chosen)
        assert [Attention.parse(row.name) for row in chosen] == [row.attention for row in chosen]
        assert {row.dtype for row in chosen} <= set(DTYPES)


def test_rows_are_the_stated_ones():
    def sizes(device):
        found = (row.attention for row in rows.choose(device, None, (), sweep=False))
        return {(a.batch, a.heads, a.q_len, a.head_dim, bool(a.causal), a.bias, a.dtype) for a in found}

    assert {
        (1, 8, 512, 64, False, None, "float32"), (1, 8, 1024, 64, False, None, "float32"),
        (1, 8, 1024, 64, True, None, "float32"), (2, 8, 2048, 64, True, None, "float32"),
        (1, 8, 4096, 64, False, None, "float32"), (1, 8, 4096, 64, True, None, "float32"),
        (64, 8, 256, 64, False, None, "float32"), (256, 8, 16, 32, False, None, "float32"),
        (8, 8, 256, 64, False, "hij", "float32"), (256, 8, 8, 64, False, "hij", "float32"),
        (1, 8, 1024, 64, False, "hij", "float32"),
    } <= sizes("cpu")  # fmt: skip
    assert {
        (4, 16, 4096, 128, True, None, "bfloat16"), (4, 16, 2048, 64, False, "bhij", "bfloat16"),
        (8192, 8, 16, 64, False, "hij", "bfloat16"), (16, 16, 1, 64, False, None, "bfloat16"),
        (4, 16, 2048, 64, True, None, "float32"),
    } <= sizes("gpu")  # fmt: skip


def test_flops_count_allowed_pairs_only():
    square = Row(Attention(batch=2, heads=3, kv_heads=3, q_len=5, kv_len=5, head_dim=7, value_dim=7))
    assert square.flops(FORWARD) == 4 * 2 * 3 * 5 * 5 * 7
    assert square.flops(BOTH) == 3.5 * square.flops(FORWARD)
    causal = Row(dataclasses.replace(square.attention, causal=True))
    assert causal.flops(FORWARD) == 4 * 2 * 3 * 15 * 7
    wide = dataclasses.replace(causal.attention, q_len=2)
    assert rows.allowed_per_query(wide).tolist() == [4, 5]
    assert rows.allowed_per_query(dataclasses.replace(wide, causal="upper_left")).tolist() == [1, 2]
    assert rows.allowed_per_query(dataclasses.replace(wide, q_len=7)).tolist() == [0, 0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("nothing*", "matches no row; there are square,"),
        ("S1,q=3", "'q=3' in case 'S1,q=3' is not KEY=VALUE"),
        ("S1,lse=1", "a row may have sizes, dtype, causal and a bias, but not logsumexp"),
        ("S13,kv=2", "as many key heads as query heads"),
        ("S1,j=0", "no size of 0"),
    ],
)
def test_a_row_that_is_none_is_bad_input(row, words):
    with pytest.raises(BadInput, match="--row") as error:
        rows.choose("cpu", row, (), sweep=False)
    assert words in str(error.value)


def test_rows_are_chosen_by_glob_by_name_and_by_dtype():
    assert [row.kind for row in rows.choose("cpu", "sweep,*i=256*", (), sweep=False)] == ["sweep"]
    assert [row.attention.q_len for row in rows.choose("cpu", "mine,i=5,causal=1", (), sweep=False)] == [5]
    assert {row.dtype for row in rows.choose("gpu", None, ("float32",), sweep=False)} == {"float32"}
    with pytest.raises(BadInput, match="no row that was asked for is in float16; on cpu there are those in float32"):
        rows.choose("cpu", None, ("float16",), sweep=False)


# Statistics.


def test_summaries_by_hand():
    summary = statistics.summarize([5.0, None, 1.0, 2.0, 4.0, 3.0])
    assert (summary.median, summary.lower, summary.upper, summary.count) == (3.0, 2.0, 4.0, 5)
    assert summary.spread == pytest.approx(2 / 3)
    assert statistics.summarize([None]) is None


def test_a_speedup_is_the_median_over_rounds():
    assert statistics.speedup([2.0, 4.0, 9.0], [1.0, 1.0, 3.0]) == 3.0
    assert statistics.speedup([2.0, None, 9.0], [1.0, 1.0]) == 2.0
    assert statistics.speedup([None], [1.0]) is None


def test_a_machine_that_slows_down_for_some_rounds_changes_no_speedup():
    noise = [1.0, 1.0, 1.0, 10.0, 10.0, 10.0, 10.0]
    ours, theirs = [1.0 * slow for slow in noise], [2.0 * slow for slow in noise]
    assert statistics.speedup(theirs, ours) == 2.0


def test_geometric_mean():
    assert statistics.geometric_mean([2.0, 0.5]) == pytest.approx(1.0)
    assert statistics.geometric_mean([2.0, 0.0]) == 0.0


# The order of measuring.


class Host:
    """Answers at once with planned times; what is asked is written down."""

    def __init__(self, log, times, *, lost_at=None):
        self.hello = Hello("cpu", tuple(Contender(name, "jax", peer=name != "ours/auto") for name in times), {})
        self._log, self._times, self._lost_at = log, times, lost_at

    def ask(self, question, seconds):
        assert seconds > 0
        name = question.task.contender
        self._log.append((type(question).__name__, name))
        if isinstance(question, Inspect):
            if self._times[name] is None:
                return Unable("it cannot", "refused")
            shape = (len(question.heads), len(question.queries), question.task.attention.value_dim)
            return Inspected(3 * MIB, "by hand", {"output": np.zeros(shape), "dquery": np.zeros(shape)})
        if sum(entry == ("Time", name) for entry in self._log) == self._lost_at:
            return Unable("the worker died (exit code 9)", "lost")
        return Timed(self._times[name], 5)


def run(hosts, plan):
    races = []
    measure.measure(plan, hosts, "cpu", races.append, lambda words: None)
    return races


SMALL = Row(Attention(q_len=5))


def test_all_are_inspected_first_and_then_timed_in_turns():
    log = []
    hosts = [Host(log, {"a": 1.0, "b": 2.0}), Host(log, {"ours/auto": 0.5, "c": None})]
    plan = measure.Plan([SMALL], [FORWARD, BOTH], repeats=4)
    races = run(hosts, plan)
    assert [race.mode for race in races] == [FORWARD, BOTH]
    assert log[:4] == [("Inspect", name) for name in ("a", "b", "ours/auto", "c")]
    rounds = [tuple(name for _, name in log[4 + 3 * n : 7 + 3 * n]) for n in range(4)]
    assert all(sorted(order) == ["a", "b", "ours/auto"] for order in rounds)
    assert len(set(rounds)) > 1, "the order is never shuffled"
    assert {kind for kind, _ in log[4:16]} == {"Time"}
    ours, c = races[0].get("ours/auto"), races[0].get("c")
    assert (ours.status, ours.samples, ours.calls, ours.memory) == ("timed", (0.5,) * 4, 5, 3 * MIB)
    assert (c.status, c.words, c.samples) == ("refused", "it cannot", ())
    assert races[0].best_peer().contender == "a"
    assert races[0].ratio(ours) == 2.0
    again = []
    run([Host(again, {"a": 1.0, "b": 2.0}), Host(again, {"ours/auto": 0.5, "c": None})], plan)
    assert again == log, "the same seed gives the same order"


def test_one_that_is_lost_keeps_its_samples_and_is_asked_no_more():
    log = []
    (race,) = run([Host(log, {"a": 1.0, "b": 1.0}, lost_at=2)], measure.Plan([SMALL], [FORWARD], repeats=5))
    assert [found.status for found in race.measurements] == ["lost", "lost"]
    assert [found.samples for found in race.measurements] == [(1.0,), (1.0,)]
    assert sum(kind == "Time" for kind, _ in log) == 4


def test_one_whose_time_is_up_sits_out_and_stays_in_its_rounds(monkeypatch):
    now = iter(range(10_000))
    monkeypatch.setattr(measure.time, "perf_counter", lambda: float(next(now)))
    (race,) = run([Host([], {"a": 1.0})], measure.Plan([SMALL], [FORWARD], repeats=4, limit=2.0))
    assert race.measurements[0].samples == (1.0, 1.0, None, None)
    assert race.measurements[0].words == "stopped after 2 s"


def test_what_is_interrupted_is_handed_over():
    class Interrupted(Host):
        def ask(self, question, seconds):
            if isinstance(question, Time):
                raise KeyboardInterrupt
            return super().ask(question, seconds)

    races = []
    with pytest.raises(KeyboardInterrupt):
        measure.measure(
            measure.Plan([SMALL], [FORWARD]), [Interrupted([], {"a": 1.0})], "cpu", races.append, lambda words: None
        )
    assert [found.status for found in races[0].measurements] == ["inspected"]


def test_rows_for_memory_ask_ours_alone_and_time_nothing():
    log = []
    (row,) = rows.choose("cpu", "memory,*2048*", (), sweep=False)
    (race,) = run([Host(log, {"a": 1.0, "ours/auto": 1.0})], measure.Plan([row], MODES))
    assert (log, race.mode) == ([("Inspect", "ours/auto")], BOTH)


def test_nobody_by_that_name_is_bad_input():
    with pytest.raises(BadInput, match=r"--contender 'x\*' matches nobody; on cpu there are a, b"):
        measure.entrants(measure.Plan([], MODES, "x*"), [Host([], {"a": 1.0, "b": 1.0})], "cpu")


# Truth on a sample.

CASES = [
    Attention(rule="long", batch=3, heads=2, kv_heads=2, q_len=150, kv_len=150, causal=True, bias="hij"),
    Attention(rule="long", batch=3, heads=2, kv_heads=2, q_len=140, kv_len=151, causal=True, bias="bhij"),
    Attention(rule="long", q_len=13, kv_len=17, causal="upper_left"),
    Attention(rule="long", q_len=131, kv_len=17, value_dim=5),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_sampled_truth_is_the_truth(case):
    sampled = Truth.of(case, 0)
    whole = truth.attention(case.case(), inputs.make(case, 0))
    assert sampled.heads == ((0, 0), (case.batch - 1, case.heads - 1))
    assert (sampled.queries[0], sampled.queries[-1], len(sampled.queries)) == (0, case.q_len - 1, min(case.q_len, 128))
    results = {
        name: np.stack([whole[name].truth[b, h][list(sampled.queries)] for b, h in sampled.heads])
        for name in ("output", "dquery")
    }
    assert [error.quantity for error in sampled.errors(results, FORWARD)] == ["output"]
    assert all(error.roundings < 1e-6 for error in sampled.errors(results, BOTH))
    results["dquery"][1, 2, 3] += 0.25
    planted = sampled.errors(results, BOTH)[1]
    assert planted.largest == pytest.approx(0.25)
    assert planted.roundings > 1000
    results["dquery"][0, 0, 0] = np.nan
    assert np.isnan(sampled.errors(results, BOTH)[1].roundings)


def test_inputs_are_the_same_wherever_they_are_made():
    case = CASES[0]
    first, second = inputs.make(case, 0), inputs.make(case, 0)
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert not np.array_equal(first["query"], inputs.make(case, 1)["query"])
    assert {name: array.shape for name, array in first.items()} == {
        name: array.shape for name, array in tensors.make(case.case(), 0).items()
    }


# Goals.


def race(row, mode, times, *, memory=None, roundings=0.5, kind="bench"):
    """A race in which every round is the same; a peer with a trailing ! does not count."""
    found = [
        Measurement(
            name.rstrip("!"), "refused" if time is None else "timed",
            counts=not name.startswith("ours/") and not name.endswith("!"), samples=() if time is None else (time,) * 3,
            memory=memory if name == "ours/auto" else 1, errors=(Error("output", 1e-7, roundings),),
        )
        for name, time in times.items()
    ]  # fmt: skip
    return Race(Row(row, kind), mode, tuple(found))


def square(n, **fields):
    return Attention(**{
        "batch": 1, "heads": 8, "kv_heads": 8, "q_len": n, "kv_len": n, "head_dim": 64, "value_dim": 64
    } | fields)  # fmt: skip


def report(races, device="cpu", **fields):
    return BenchReport({}, "parity bench", device, 0, 3, tuple(races), goals.judge(device, races), **fields)


def healthy(ours=1.0):
    """Every CPU goal met, with `ours` seconds for `ours/auto`."""
    return [
        race(square(n), mode, {"torch/sdpa": 1.5, "jax.nn/xla": 4.0, "ours/auto": ours}, memory=n * 10_000)
        for n in (16, 2048, 4096)
        for mode in MODES
    ]


def test_a_healthy_run_meets_every_goal():
    found = report(healthy(), check=True)
    assert {verdict.met for verdict in found.verdicts} == {True}
    assert found.exit_code == 0


def test_a_planted_slow_auto_trips_the_check():
    found = report(healthy(ours=1.4), check=True)
    missed = [verdict.goal for verdict in found.verdicts if verdict.met is False]
    assert missed == [
        f"cpu float32 {mode}{about}, geometric mean"
        for about in (": against torch/sdpa", ", n >= 1024: against jax.nn/*")
        for mode in MODES
    ]
    assert found.exit_code == 1
    assert dataclasses.replace(found, check=False).exit_code == 0
    assert dataclasses.replace(found, interrupted=True).exit_code == 130


def test_one_slow_row_trips_the_worst_row():
    races = healthy(ours=0.5)
    races[1] = race(square(16), BOTH, {"torch/sdpa": 0.8, "ours/auto": 1.0})
    found = report(races, check=True)
    missed = [verdict for verdict in found.verdicts if verdict.met is False]
    assert [verdict.goal for verdict in missed] == ["cpu float32 forward+backward: against torch/sdpa, worst row"]
    assert missed[0].figure.startswith("0.80x over 3 rows; worst 0.80x, S1,b=1,")
    assert found.exit_code == 1


def test_an_auto_that_cannot_do_a_row_is_infinitely_slow():
    found = report([race(square(16), FORWARD, {"torch/sdpa": 1.0, "ours/auto": None})], check=True)
    assert found.exit_code == 1


def test_a_wrong_answer_meets_no_goal_however_fast():
    for roundings in (17.0, float("nan")):
        races = [*healthy(), race(square(8), FORWARD, {"torch/sdpa": 1.5, "ours/auto": 1.0}, roundings=roundings)]
        assert [verdict.goal for verdict in report(races).verdicts if not verdict.met] == [
            "error of every ours/*, in roundings"
        ]


@pytest.mark.parametrize(("short", "long", "missed"), [(40, 80, 0), (40, 81, 1), (60, 101, 1), (10, 101, 2)])
def test_goals_of_memory(short, long, missed):
    races = [
        race(square(n), BOTH, {"ours/auto": 1.0}, memory=mib * MIB, kind="memory")
        for n, mib in ((2048, short), (4096, long))
    ]
    judged = [verdict for verdict in report(races).verdicts if "memory" in verdict.goal]
    assert [verdict.met for verdict in judged].count(False) == missed
    assert len(judged) == 2


def test_goals_on_a_gpu_are_about_each_row_and_its_best_torch_kernel():
    bf16 = {"dtype": "bfloat16"}
    peers = {"torch/sdpa-cudnn": 1.0, "torch/sdpa-flash": 2.0, "torch/flex!": 0.1, "jax.nn/xla": 3.0}
    races = [race(square(4096, **bf16), mode, peers | {"ours/auto": 1.02}) for mode in MODES]
    races += [race(square(16, **bf16), mode, peers | {"ours/auto": 0.4}) for mode in MODES]
    fp32 = {"torch/sdpa-efficient": 1.2, "torch/sdpa-math": 0.1, "jax.nn/xla": 1.0, "ours/auto": 1.0}
    races += [race(square(2048), mode, fp32) for mode in MODES]
    assert report(races, "gpu", check=True).exit_code == 0
    for slower, words in ((race(square(4096, **bf16), FORWARD, peers | {"ours/auto": 1.04}), "n > 64"),
                          (race(square(16, **bf16), BOTH, peers | {"ours/auto": 0.6}), "n <= 64"),
                          (race(square(4096), BOTH, fp32 | {"ours/auto": 1.1}), "jax.nn/xla")):  # fmt: skip
        found = report([*races, slower], "gpu", check=True)
        assert found.exit_code == 1
        assert any(words in verdict.goal for verdict in found.verdicts if verdict.met is False)
    assert all("gpu" not in verdict.goal for verdict in report(races, "cpu").verdicts)


def test_the_stated_ratios():
    speeds = {goal.name: goal.least for goal in goals.GOALS if isinstance(goal, goals.Speed)}
    assert len(speeds) == len([goal for goal in goals.GOALS if isinstance(goal, goals.Speed)])
    assert speeds["cpu float32 forward: against torch/sdpa, geometric mean"] == 1.2
    assert speeds["cpu float32 forward+backward: against torch/sdpa, worst row"] == 0.85
    assert speeds["cpu float32 forward, n >= 1024: against jax.nn/*, geometric mean"] == 3.0
    assert speeds["gpu bfloat16 forward, n > 64: against torch/*, worst row"] == 0.97
    assert speeds["gpu bfloat16 forward+backward, n > 64: against torch/*, worst row"] == 0.95
    assert speeds["gpu float32 forward+backward: against torch/sdpa-efficient, worst row"] == 1.1


def test_nothing_measured_and_nothing_judged_are_4():
    assert report([race(square(16), FORWARD, {"torch/sdpa": None, "ours/auto": None})]).exit_code == 4
    theirs = [race(square(16), FORWARD, {"torch/sdpa": 1.0, "jax.nn/xla": 1.0})]
    assert report(theirs).exit_code == 0
    assert report(theirs, check=True).exit_code == 4


def test_a_sweep_is_not_a_bench_row():
    races = [race(square(16), FORWARD, {"torch/sdpa": 1.0, "ours/auto": 9.0}, kind="sweep")]
    assert [verdict.met for verdict in report(races).verdicts if "against" in verdict.goal] == [None] * 6


# What is written and shown.


def full_report():
    races = healthy()
    odd = Measurement(
        "jax.nn/xla", "lost", "the worker died", samples=(1.0, None), errors=(Error("output", 1.0, np.inf),)
    )
    races.append(
        Race(SMALL, BOTH, (odd, Measurement("torch/flex", "timed", note="no bias gradient", samples=(1.0, 2.0))))
    )
    races += [race(square(n), mode, {"torch/sdpa": n, "ours/auto": n / 2}, memory=n * MIB, kind="sweep")
              for n in (256, 512) for mode in MODES]  # fmt: skip
    return report(races, seconds=12.5, check=True)


def test_json_comes_back_as_it_was(tmp_path):
    path = tmp_path / "bench.json"
    found = full_report()
    json.write(found, path)
    assert json.read(path) == found
    document = plain_json.loads(path.read_text())
    assert (document["schema"], document["kind"], document["exit_code"]) == (1, "bench", found.exit_code)
    first = document["races"][0]["measurements"]
    assert [(m["contender"], m["median"], m["best_peer"]) for m in first] == [
        ("torch/sdpa", 1.5, "torch/sdpa"), ("jax.nn/xla", 4.0, "torch/sdpa"), ("ours/auto", 1.0, "torch/sdpa"),
    ]  # fmt: skip
    assert first[2]["ratio"] == 1.5
    assert first[2]["tflops"] == pytest.approx(4 * 8 * 16 * 16 * 64 / 1e12)


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_a_plot_is_drawn(tmp_path, suffix):
    path = tmp_path / f"plot{suffix}"
    plot.check(path)
    plot.write(full_report(), path)
    assert path.read_bytes().startswith(b"\x89PNG" if suffix == ".png" else b"<?xml")
    if suffix == ".svg":
        assert "ours/auto" in path.read_text()
    plot.write(report([]), path)  # nothing to draw is no reason to fail


def test_a_plot_of_no_known_kind_is_bad_input(tmp_path):
    with pytest.raises(BadInput, match=r"--plot must end in .png or .svg; got 'plot.gif'"):
        plot.check(tmp_path / "plot.gif")


def test_the_table_says_who_is_best_who_could_not_and_what_auto_chose(capsys):
    peer = Measurement(
        "torch/sdpa", "timed", counts=True, samples=(2e-3,) * 3, memory=5 * MIB, memory_by="peak RSS growth"
    )
    ours = Measurement(
        "ours/auto", "timed", samples=(1e-3,) * 3, runs="einsum", note="einsum runs: it can\n  cudnn: no"
    )
    refused = Measurement("ours/cudnn", "refused", "takes float16 only")
    console = table.console_of_some_width()
    table.print_race(console, Race(SMALL, FORWARD, (peer, ours, refused)))
    out = capsys.readouterr().out
    lines = [line.split() for line in out.splitlines()]
    assert ["ours/auto", "(einsum)", "1.000", "0%"] in [line[:4] for line in lines]
    assert lines[3][0] == "ours/auto", "the fastest comes first"
    assert ["torch/sdpa", "*", "2.000"] in [line[:3] for line in lines]
    assert "~5.0" in out
    assert "2.00x" in out
    assert "ours/cudnn refused: takes float16 only" in out
    assert "ours/auto: einsum runs: it can" in out


def test_the_verdicts_say_what_was_missed(capsys):
    table.print_verdicts(table.console_of_some_width(), report(healthy(ours=1.4)))
    out = capsys.readouterr().out
    assert "missed" in out
    assert ">= 1.20x" in out
    assert "1.07x over 3 rows" in out
    assert "5 of 9 goals met" in out
    assert "busy" not in out


def test_a_busy_machine_is_told_of(capsys):
    for load, busy in (("0.10", False), ("1.50", True)):
        environment = {"cpus": "2", table.LOAD: load}
        table.print_verdicts(
            table.console_of_some_width(), dataclasses.replace(report(healthy()), environment=environment)
        )
        assert ("was busy before the run (load 1.50 on 2 CPUs)" in capsys.readouterr().out) == busy
