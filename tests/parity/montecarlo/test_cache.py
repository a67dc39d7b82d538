"""Spreads from the disk: the same verdicts, sooner, and never those of something else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from parity.montecarlo import cache
from parity.montecarlo.results import Known, Rounding, Spread

EXAMPLES = Path(__file__).parents[3] / "examples"
PAIR = f"{EXAMPLES}/parity_golden.py:mlp"
WRONG = f"{Path(__file__).parents[1] / 'candidates' / 'parity_golden.py'}:wrong_epsilon"
TRUTH = {"output": np.ones(3), "ids": np.array([1, 2])}
SPREAD = Spread({"output": np.arange(3.0)}, {"ids": np.array([True, False])}, {"odd": 2}, {"argmax": 1}, 8)
FOUND = Known(TRUTH, SPREAD)
REFERENCE = {"output": np.ones(3, np.float32), "ids": np.array([1, 2])}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("PARITY_SPREADS_DIR", str(tmp_path / "spreads"))
    return tmp_path / "spreads"


class Doubled(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3))

    def forward(self, x):
        return 2 * x * self.weight


class Tripled(Doubled):
    def forward(self, x):
        return 3 * x * self.weight


def ask(folder, make=lambda: FOUND, module=None, inputs=None, reference=REFERENCE, settings=("case", 0)):
    known = (module or Doubled(), None), inputs or {"x": np.ones(3)}, reference, settings
    return cache.remembered(str(folder), *known, make)


def test_an_entry_comes_back_as_it_was(folder):
    assert ask(folder)[1] is False
    found, cached = ask(folder, make=lambda: pytest.fail("made again"))
    assert cached
    spread = found.spread
    assert all(np.array_equal(found.truth[name], array) for name, array in TRUTH.items())
    assert np.array_equal(spread.results["output"], SPREAD.results["output"])
    assert np.array_equal(spread.uncertain["ids"], SPREAD.uncertain["ids"])
    assert (spread.unruled, spread.flips, spread.runs) == ({"odd": 2}, {"argmax": 1}, 8)


def other_weights():
    module = Doubled()
    torch.nn.init.zeros_(module.weight)
    return module


OTHERS = {
    "the module's code": {"module": Tripled()},
    "the weights": {"module": other_weights()},
    "the inputs": {"inputs": {"x": np.zeros(3)}},
    "what the reference gives": {"reference": REFERENCE | {"output": np.nextafter(np.ones(3, np.float32), 2)}},
    "the seed": {"settings": ("case", 1)},
    "the rounding": {"settings": ("case", 0, Rounding.of("float16"))},
}


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS.keys())
def test_whatever_it_depends_on_makes_another_entry(folder, change):
    ask(folder)
    assert ask(folder, **change)[1] is False


def test_the_arithmetic_s_own_source_makes_another_entry(folder, monkeypatch):
    ask(folder)
    monkeypatch.setattr(cache, "_own_source", lambda: b"another rule")
    assert ask(folder)[1] is False


@pytest.mark.parametrize("content", [b"", b"nonsense", None], ids=["empty", "nonsense", "a flipped byte"])
def test_a_corrupt_entry_is_made_anew(folder, content):
    ask(folder)
    (entry,) = folder.iterdir()
    good = entry.read_bytes()
    entry.write_bytes(good[:-1] + bytes([good[-1] ^ 1]) if content is None else content)
    assert ask(folder)[1] is False
    assert ask(folder)[1] is True


def test_a_folder_that_cannot_be_written_costs_nothing(tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert ask(tmp_path / "file") == (FOUND, False)


def test_what_was_not_used_for_longest_goes_first(folder, monkeypatch):
    ask(folder)
    (old,) = folder.iterdir()
    os.utime(old, (1, 1))
    monkeypatch.setattr(cache, "LIMIT", 2 * old.stat().st_size)
    ask(folder, settings=("case", 1))
    assert old.exists()
    ask(folder, settings=("case", 2))
    assert (old.exists(), len(list(folder.iterdir()))) == (False, 2)


def quantities(ran):
    return [case["quantities"] for case in ran.report["cases"]]


def test_a_pair_run_again_has_the_same_verdicts_and_says_where_its_bound_is_from(cli, folder):
    first = cli("run", "--pair", PAIR, "--device", "cpu")
    assert first.code == 0
    assert len(list(folder.iterdir())) == 2
    again = cli("run", "--pair", PAIR, "--device", "cpu")
    assert quantities(again) == quantities(first)
    assert [case["notes"] for case in again.report["cases"]] == [["bound from the cache"]] * 2
    anew = cli("run", "--pair", PAIR, "--device", "cpu", "--no-cache")
    assert quantities(anew) == quantities(first)
    assert "bound from the cache" not in anew.words
    wrong = cli("run", "--pair", WRONG, "--device", "cpu")
    assert (wrong.code, set(wrong.statuses.values())) == (1, {"failed"})


def test_a_pair_takes_ten_passes_in_float64_and_none_when_it_is_run_again(folder):
    """The torch side alone: what JAX takes to compile is not what the cache saves."""
    from parity import tensors
    from parity.messages import Options
    from parity.pairs import load, torch_side
    from parity.pairs.cases import cases
    from parity.pairs.messages import PairJob, PairSide

    spec = f"{EXAMPLES}/parity_blocks.py:mlp"
    pair = load.load(spec)
    case = cases(spec, pair, ())[0]
    torch_side.set_up(Options(device="cpu"))
    job = PairJob(0, case, tensors.make(case, 0))

    def run():
        made = torch_side.Made(pair, PairSide(spec, "torch", 0, str(folder)))
        called, heard = [], []
        made.heard = lambda *pass_: heard.append(pass_)
        whole = made._step
        made._step = lambda *given: called.append(given[2]) or whole(*given)
        return made.run(job), called, heard

    first, called, heard = run()
    assert called == [None] + 10 * [torch.float64]
    assert heard == [(number, 10) for number in range(10)]
    again, called, heard = run()
    assert (called, heard) == ([None], [])
    assert again[1] == (*first[1], "bound from the cache")
    assert list(again[0]) == list(first[0])
    assert all(np.array_equal(again[0][name], array) for name, array in first[0].items())


@pytest.mark.usefixtures("folder")
def test_the_pipeline_s_own_process_loads_no_framework():
    """What travels is NumPy's and Python's: torch.__version__ alone would bring all of torch along."""
    program = f"""
import contextlib, sys
from parity.cli import main
with contextlib.suppress(SystemExit):
    main(["run", "--pair", {PAIR!r}, "--device", "cpu", "--quiet"])
print(sorted({{name.split(".")[0] for name in sys.modules}} & {{"torch", "jax", "jaxlib", "flax"}}))
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "passed" in ran.stdout
    assert ran.stdout.splitlines()[-1] == "[]"
