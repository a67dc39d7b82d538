"""`parity.check` and `assert_parity`: how a pair is found, and what is said of one that is wrong."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import parity
from parity.compare import Verdict
from parity.errors import BadInput
from parity.pairs import load
from parity.pairs.place import name_of, spec_of
from parity.results import CaseResult, Report
from tests.parity.candidates import functions

ROOT = Path(__file__).parents[2]
BLOCKS = ROOT / "examples" / "parity_blocks.py"
FAULTS = ROOT / "tests" / "parity" / "candidates" / "parity_faults.py"
PAIR = """
import parity

def torch_module():
    from torch import nn
    return nn.Linear(8, 3)

def flax_module():
    from flax import nnx
    return nnx.Linear(8, 3, rngs=nnx.Rngs(0))

def call(module, x):
    return module(x)

head = parity.Pair(
    torch=torch_module, flax=flax_module, inputs={"x": parity.Input("b 8")}, sizes={"b": 5},
    torch_call=call, flax_call=call,
)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A new folder on the path, and the current one; what is imported from it is forgotten."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_a_pair_that_is_imported_passes(monkeypatch):
    monkeypatch.chdir(ROOT)
    pair = load.load(f"{BLOCKS}:mlp")
    report = parity.check(pair, case="*n=17", dtypes="float32")
    (result,) = report.results
    assert (result.status, result.name) == ("passed", "parity_blocks.mlp,b=2,n=17")
    assert result.command.startswith("parity run --pair examples/parity_blocks.py:mlp --case")
    assert {"jax", "torch", "commit"} <= set(report.environment)
    assert parity.assert_parity(report) is report


def test_a_wrong_pair_raises_what_a_person_needs():
    with pytest.raises(AssertionError) as raised:
        parity.assert_parity([f"{FAULTS}:epsilon", f"{FAULTS}:short"])
    words = str(raised.value)
    first, *lines = words.splitlines()
    assert first.startswith("parity_faults.epsilon,b=5 failed: output, error / bound 7.")
    assert re.fullmatch(r"  output: (29|30|31) of 35 beyond the bound \(8\d\.\d %\)", lines[0])  # by the processor
    assert all(word in lines[1] for word in ("worst at [", "candidate 0.", "reference 0.", "truth 0.", "error / bound"))
    assert "  and so do d(" in words
    assert f"again: parity run --pair {FAULTS}:epsilon --case parity_faults.epsilon,b=5 --seed 0" in words
    assert lines[-1] == "2 of 2 cases did not pass; the others: parity_faults.short,b=5 (failed)"


def test_a_folder_is_all_its_pairs(folder):
    (folder / "parity_head.py").write_text(PAIR)
    report = parity.check(Path())
    assert [(result.name, result.status) for result in report.results] == [("parity_head.head,b=5", "passed")]


def test_an_attention_is_judged_by_name_or_as_an_object():
    report = parity.check_attention(functions.annotated, case="S1[23]*", suite="smoke")
    statuses = {result.name.split(",")[0]: result.status for result in report.results}
    assert statuses == {"S12": "skipped", "S12-empty": "skipped", "S13": "skipped"}
    with pytest.raises(AssertionError, match="nothing was compared: the candidate does not accept"):
        parity.assert_parity(report)


def test_a_script_finds_its_own_pair_and_is_not_run_twice(folder):
    script, environment = folder / "script.py", os.environ | {"PYTHONPATH": str(ROOT)}
    script.write_text(f"{PAIR}\nif __name__ == '__main__':\n    print(parity.check(head).counts['passed'])\n")
    run = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True)
    assert run.stdout == "1\n", run.stderr
    script.write_text(f"{PAIR}\nparity.check(head)\n")
    run = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True)
    assert "put the call into a function, or below `if __name__ == '__main__':`" in run.stderr


def test_the_spec_of_a_pair_is_its_file_or_the_name_in_a_package(folder):
    for name in ("alone.py", "package/__init__.py", "package/inner.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(PAIR if "__init__" not in name else "from package.inner import head\n")
    (folder / "importer.py").write_text("from package.inner import head as renamed\nfrom alone import head\n")
    importer = importlib.import_module("importer")
    assert spec_of(importer.renamed) == "package.inner:head"
    assert spec_of(importer.head) == "alone.py:head"
    for spec in ("package.inner:head", "alone.py:head"):
        assert isinstance(load.load(spec), parity.Pair)


def test_a_local_pair_is_told_where_it_should_stand():
    local = parity.Pair(torch=lambda: None, flax=lambda: None, inputs={})
    with pytest.raises(BadInput, match=r"stands at the top of no imported module.*define it at the top of a module"):
        parity.check(local)


def test_a_local_function_and_an_unreachable_module_have_no_name(monkeypatch):
    assert name_of(functions.of_jax) == "tests.parity.candidates.functions:of_jax"
    with pytest.raises(BadInput, match="is no class or function at the top of an imported module"):
        name_of(lambda q, k, v: v)
    monkeypatch.setattr(functions.of_jax, "__module__", "made_up")
    monkeypatch.setitem(sys.modules, "made_up", functions)
    monkeypatch.setattr(functions, "__name__", "made_up")
    with pytest.raises(BadInput, match="another process cannot import by that name"):
        name_of(functions.of_jax)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pair": 3}, "expected a parity.Pair or where one stands"),
        ({"pair": "x.py:y", "dtypes": "float64"}, "dtypes are of float32, bfloat16, float16; got 'float64'"),
        ({"pair": "x.py:y", "device": "tpu"}, "must be cpu or gpu"),
        ({"pair": "no_such.py:y"}, "there is no file no_such.py"),
    ],
)
def test_bad_input_is_said_in_words(options, words):
    with pytest.raises(BadInput, match=words):
        parity.check(**options)


def result(status, **options):
    fields = {"reason": "why", "seed": 0, "dtype": "float32", "implementation": "auto", "device": "cpu"}
    return CaseResult("S1", status, **(fields | {"reference": "r", "candidate": "c", "command": "again"} | options))


@pytest.mark.parametrize(
    ("results", "words"),
    [
        ([], "nothing was compared: there were no cases"),
        ([result("skipped")], "nothing was compared: why"),
        ([result("passed"), result("inconclusive")], "S1 is inconclusive: why\n  again: again"),
        ([result("error", implementation="einsum")], "S1 [einsum] could not be judged: why\n  again: again"),
        (
            [result("failed", cause="a [cause]", verdicts=(Verdict("output", "failed", "off", bound_ratio=3.0),))],
            "S1 failed: output, error / bound 3\n  likely cause: a [cause]\n  output: off\n  again: again",
        ),
    ],
    ids=["empty", "skipped", "inconclusive", "error", "failed"],
)
def test_what_is_no_proof_is_said(results, words):
    with pytest.raises(AssertionError) as raised:
        parity.assert_parity(Report({}, tuple(results)))
    assert str(raised.value) == words


def test_a_report_takes_no_options():
    with pytest.raises(TypeError, match="seed: a report has been made already"):
        parity.assert_parity(Report({}, ()), seed=1)


def test_importing_parity_and_naming_its_functions_loads_no_framework():
    program = "import sys, parity\nassert 'parity.checks' not in sys.modules\nparity.check, parity.assert_parity\n"
    program += "import parity.checks\nassert callable(parity.check)\n"
    program += "print(sorted({'torch', 'jax', 'flax'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert run.stdout == "[]\n", run.stderr
