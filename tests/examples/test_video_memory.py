"""A command starts itself anew once, with memory kept; what the user says about it stands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from examples.video.memory import KEEP

ROOT = Path(__file__).parents[2]
COMMAND = (
    "import os, sys; from examples.video.memory import kept; kept(); print(os.getenv('GLIBC_TUNABLES'), sys.argv[1:])"
)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
@pytest.mark.parametrize(("given", "seen"), [(None, KEEP), ("", ""), ("glibc.malloc.arena_max=2", None)])
def test_the_command_is_started_anew_once(given, seen):
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    if given is not None:
        environment["GLIBC_TUNABLES"] = given
    command = [sys.executable, "-c", COMMAND, "--steps", "a b"]
    said = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said == f"{given if seen is None else seen} ['--steps', 'a b']\n"
