#!/usr/bin/env bash
# `make test-lowest`: the default suite, examples' pairs and the two packages' tests at the lowest versions of pyproject.toml.
#
# By hand and not in CI: before 2.13, pip finds torch as a CUDA build only, 6 GB. Arguments replace pins: torch==2.13.0.
set -euo pipefail
cd "$(dirname "$0")/.."
work=build/lowest
mkdir -p "$work"
python3 release/lowest.py "$@" >"$work/pins.txt"
cat "$work/pins.txt"
test -d "$work/venv" || python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  ".[all]" pytest pytest-xdist hypothesis jsonschema --constraint "$work/pins.txt"
export JAX_PLATFORMS=cpu
"$work/venv/bin/parity" run --quiet
"$work/venv/bin/parity" run --quiet --pair examples/parity_blocks.py --pair examples/parity_sequence.py
# That an old flax uses what a newer JAX deprecates is no fault of ours.
"$work/venv/bin/python" -m pytest -q -W ignore::DeprecationWarning -n 2 -p no:cacheprovider tests/test_rules.py tests/attend_jax tests/attend_torch
