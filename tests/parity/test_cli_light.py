"""`--help`, `list` and `show`: quick, because they load neither framework."""

from __future__ import annotations

import os
import subprocess
import sys

from parity.attention import Attention

LIGHT = [
    ("--help",),
    ("run", "--help"),
    ("bench", "--help"),
    ("trace", "--help"),
    ("list",),
    ("list", "--suite", "full"),
    ("show", "S1"),
    ("show", "S1,i=5,causal=1"),
]


def test_help_list_and_show_import_neither_framework():
    """In one process after another's work: what is not loaded at the end was never loaded."""
    program = """
import contextlib, io, sys
from parity.cli import main
for arguments in {light!r}:
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        main(arguments)
    assert out.getvalue(), arguments
print(sorted({{name.split(".")[0] for name in sys.modules}} & {{"torch", "jax", "jaxlib", "flax"}}))
"""
    check = [sys.executable, "-c", program.format(light=[*LIGHT])]
    assert subprocess.run(check, capture_output=True, text=True, check=True).stdout.strip() == "[]"
    planted = [sys.executable, "-c", "import torch\n" + program.format(light=[("--help",)])]
    assert subprocess.run(planted, capture_output=True, text=True, check=True).stdout.strip() == "['torch']"


def test_list_names_cases_on_stdout_and_suites_on_stderr(cli):
    ran = cli("list", "--suite", "smoke")
    assert ran.code == 0
    assert [Attention.parse(name).name for name in ran.out.split()] == ran.out.split()
    assert "smoke       18 cases" in ran.err


def test_show_describes_a_case(cli):
    ran = cli("show", "S1,i=5,causal=1")
    assert ran.code == 0
    for words in ("causal=True", "(2, 4, 5, 8)", "parity run --case S1,i=5,causal=1", "output, dquery, dkey, dvalue"):
        assert words in ran.words


def test_the_main_module_is_the_command():
    environment = os.environ | {"NO_COLOR": "1"}
    check = subprocess.run(
        [sys.executable, "-m", "parity", "--help"], capture_output=True, text=True, env=environment, check=True
    )
    assert "Prove that a torch module" in check.stdout
