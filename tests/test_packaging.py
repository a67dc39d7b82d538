"""What a wheel holds, and that type checkers outside see the public API in it."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("attend_jax", "attend_torch", "parity")


def run(*command, **options):
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300, **options)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    answer = run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=ROOT)
    assert answer.returncode == 0, answer.stderr
    (path,) = folder.glob("attend_jax-*.whl")
    return path


def test_a_wheel_holds_every_module_and_says_that_it_is_typed(wheel):
    held = {name for name in zipfile.ZipFile(wheel).namelist() if not re.match(r"[^/]*\.dist-info/", name)}
    modules = {path.relative_to(ROOT).as_posix() for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert modules | {f"{package}/py.typed" for package in PACKAGES} <= held
    assert {name.split("/")[0] for name in held} == set(PACKAGES)


RIGHT = """
import jax, torch
from flax import nnx
import attend_jax, attend_jax.linen, attend_torch, parity

def use(q: jax.Array, k: jax.Array, v: jax.Array, t: torch.Tensor) -> None:
    module = attend_jax.Attend(0.1, causal="lower_right", layout="bnhd", rngs=nnx.Rngs(0))
    module(q, k, v, mask=q > 0)
    attend_jax.linen.Attend(dropout=0.1, scale=0.5)
    attend_jax.attend(q, k, v, q, dropout_rate=0.1, implementation="blockwise")
    attend_jax.dot_product_attention(q, k, v, mask=q > 0, implementation="einsum")
    cache = attend_jax.KeyValueCache.zeros((2, 8, 16, 64)).append(k, v)
    room: int = cache.capacity
    chosen: str = attend_jax.explain(q, k, v).implementation
    attend_torch.Attend(0.1, flash=True)(t, t, t)
    attend_torch.attend(t, t, t, causal=True)
    parity.transfer(attend_torch.Attend(), attend_jax.Attend())
    print(room, chosen)
"""

WRONG = [  # a line in the place of `print`, and what is said of it
    ('attend_jax.Attend(dropout="much")', '"dropout" to "Attend" has incompatible type "str"'),
    ("attend_jax.attend(q, k)", 'Missing positional argument "value" in call to "attend"'),
    ("attend_jax.dot_product_attention(q, k, v, dropout=0.1)", 'Unexpected keyword argument "dropout"'),
    ("cache.append(k)", 'Missing positional argument "value" in call to "append"'),
    ("attend_torch.attend(t, t, t, implementation=3)", '"implementation" to "attend" has incompatible type "int"'),
    ("parity.transfer(attend_torch.Attend())", 'Missing positional argument'),
    ("chosen.shape", '"str" has no attribute "shape"'),
]  # fmt: skip

# The frameworks' own types are not what is tested, and take a minute to read.
CONFIG = """
[mypy]
strict = true
[mypy-jax.*,torch.*,flax.*,numpy.*,jaxtyping.*]
follow_imports = skip
"""


@pytest.fixture(scope="module")
def checked(wheel, tmp_path_factory):
    """mypy on a program, with the wheel installed as anybody installs it, next to this environment's frameworks."""
    folder = tmp_path_factory.mktemp("user")
    venv.create(folder / "venv", with_pip=False)
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    zipfile.ZipFile(wheel).extractall(site)
    (site / "frameworks.pth").write_text(sysconfig.get_path("purelib"))
    (folder / "mypy.ini").write_text(CONFIG)

    def check(program):
        (folder / "program.py").write_text(program)
        python = ("--python-executable", folder / "venv" / "bin" / "python")
        return run(sys.executable, "-m", "mypy", *python, "program.py", cwd=folder, env={}).stdout

    return check, site


def test_the_public_api_is_typed_from_outside(checked):
    check, site = checked
    assert check(RIGHT) == "Success: no issues found in 1 source file\n"
    answer = check(RIGHT.replace("    print(room, chosen)", "\n".join(f"    {line}" for line, _ in WRONG)))
    for line, words in WRONG:
        assert words in answer, line
    (site / "attend_jax" / "py.typed").unlink()
    assert "missing library stubs or py.typed marker" in check(RIGHT)
