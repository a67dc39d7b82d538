"""The import arrows of the design, each with a planted violation that the check must find."""

from __future__ import annotations

import importlib
import inspect
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import parity

ROOT = Path(parity.__file__).parent.parent
PACKAGES = ("attend_jax", "attend_torch", "parity")
LINT = Path(sys.executable).parent / "lint-imports"

BLOCKED = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"{{name}} is not on this machine", name=name)

sys.meta_path.insert(0, Blocker())
"""


def lint(folder):
    return subprocess.run(
        [str(LINT), "--no-cache"], cwd=folder, capture_output=True, text=True, env={"PYTHONPATH": str(folder)}
    )  # fmt: skip


@pytest.fixture
def copy(tmp_path):
    """The packages and their contracts, to be spoiled."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_arrows_hold(copy):
    answer = lint(copy)
    assert answer.returncode == 0, answer.stdout + answer.stderr


@pytest.mark.parametrize(
    ("file", "line", "words"),
    [
        ("attend_jax/masks.py", "import torch", "attend_jax knows neither torch nor the others BROKEN"),
        ("attend_jax/masks.py", "from parity import cases", "attend_jax knows neither torch nor the others BROKEN"),
        ("attend_torch/masks.py", "import jax", "attend_torch knows neither jax nor the others BROKEN"),
        ("attend_torch/masks.py", "import attend_jax", "attend_torch knows neither jax nor the others BROKEN"),
        (
            "attend_jax/implementations/einsum.py", "from attend_jax.implementations import cudnn",
            "implementations do not import one another BROKEN",
        ),
        ("parity/bench/measure.py", "import torch", "the bench loads a framework in its worker only BROKEN"),
        ("parity/bench/plot.py", "import jax", "the bench loads a framework in its worker only BROKEN"),
    ],
)  # fmt: skip
def test_a_planted_import_is_found(copy, file, line, words):
    path = copy / file
    path.write_text(
        path.read_text().replace(
            "from __future__ import annotations\n", f"from __future__ import annotations\n{line}\n"
        )
    )
    assert line in path.read_text()
    answer = lint(copy)
    assert answer.returncode != 0
    assert words in answer.stdout


def without(blocked, program):
    return subprocess.run(
        [sys.executable, "-c", BLOCKED.format(blocked=set(blocked)) + program], capture_output=True, text=True
    )  # fmt: skip


ATTEND_JAX = """
import jax.numpy as jnp
import attend_jax, attend_jax.linen
print(attend_jax.attend(*[jnp.ones((1, 1, 2, 8))] * 3).shape)
"""
ATTEND_TORCH = """
import torch
import attend_torch
print(tuple(attend_torch.attend(*[torch.ones(1, 1, 2, 8)] * 3).shape))
"""


@pytest.mark.parametrize(
    ("blocked", "program"),
    [
        (("torch", "attend_torch", "parity"), ATTEND_JAX),
        (("jax", "jaxlib", "flax", "attend_jax", "parity"), ATTEND_TORCH),
    ],
    ids=["attend_jax without torch", "attend_torch without jax"],
)
def test_each_package_works_where_the_other_framework_is_not(blocked, program):
    answer = without(blocked, program)
    assert answer.stdout.strip() == "(1, 1, 2, 8)", answer.stderr
    spoiled = without(blocked, f"import {blocked[0]}\n" + program)
    assert "is not on this machine" in spoiled.stderr, "the blocker does not block"


def test_attend_jax_adds_little_to_importing_flax():
    # A count and not a time, which docs/import-time.py has.
    program = "import sys, flax.linen, flax.nnx; before = set(sys.modules); import attend_jax; {spoil}"
    program += "; print(*sorted(set(sys.modules) - before))"
    light, heavy = (
        subprocess.run([sys.executable, "-c", program.format(spoil=spoil)], capture_output=True, text=True).stdout
        for spoil in ("pass", "import jax.experimental.pallas")
    )
    kinds = [{name.split(".")[0] for name in names.split()} for names in (light, heavy)]
    assert kinds[0] == {"attend_jax", "einops", "jaxtyping"}
    assert not any(".triton." in name and name != "attend_jax.implementations.triton.plan" for name in light.split())
    assert kinds[1] != kinds[0], "what is heavy would not be seen"


def test_flax_nnx_is_loaded_when_it_is_needed():
    program = (
        "import sys, flax.linen, attend_jax, attend_jax.linen; print('flax.nnx' in sys.modules); attend_jax.{name}"
    )
    program += "; print('flax.nnx' in sys.modules)"
    for name, loads in (("attend", False), ("Attend", True), ("dot_product_attention", True)):
        command = [sys.executable, "-c", program.format(name=name)]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert said.split() == ["False", str(loads)]


def test_what_is_loaded_later_is_there_all_the_same():
    import attend_jax

    assert set(attend_jax.__all__) <= set(dir(attend_jax))
    assert attend_jax.Attend is importlib.import_module("attend_jax.module").Attend
    with pytest.raises(AttributeError, match="module 'attend_jax' has no attribute 'Atend'"):
        attend_jax.Atend  # noqa: B018


@pytest.mark.parametrize("blocked", [("torch",), ("jax", "flax")])
def test_parity_lists_cases_where_a_framework_is_not(blocked):
    answer = without(blocked, "from parity.cli import main\nmain(['list', '--suite', 'smoke'])\n")
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.startswith("S1\n")


def test_the_contract_of_the_bench_names_all_its_files_but_the_two_sides():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (contract,) = (found for found in contracts if found["name"].startswith("the bench"))
    files = {path.stem for path in (ROOT / "parity" / "bench").glob("*.py")} - {"__init__", "torch_side", "jax_side"}
    assert {module.removeprefix("parity.bench.") for module in contract["source_modules"]} == files


@pytest.mark.parametrize("name", ["attend_jax", "attend_torch"])
def test_public_names_are_explicit_sorted_and_there(name):
    package = importlib.import_module(name)
    assert package.__all__ == sorted(package.__all__)
    assert {"Attend", "attend"} <= set(package.__all__)
    for public in package.__all__:
        assert inspect.getdoc(getattr(package, public)), f"{name}.{public} has no docstring"
