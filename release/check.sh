#!/usr/bin/env bash
# `make release-check`: builds wheel and sdist, and runs them where there is nothing but what they ask for.
#
# Two environments, each empty at first: the wheel's for JAX, the sdist's for torch. Once they have shown what they do alone,
# the first gets `parity` and judges by goldens, still without torch; the second gets all and runs the smoke suite.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
work=build/release
rm -rf "$work"
mkdir -p "$work/elsewhere" # commands run there: what is found is what was installed
.venv/bin/python -m build --outdir "$work/dist" . >"$work/build.log" 2>&1 || { cat "$work/build.log"; exit 1; }
.venv/bin/python release/contents.py "$work/dist"
wheel=$(echo "$root/$work"/dist/*.whl)
sdist=$(echo "$root/$work"/dist/*.tar.gz)

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
into() { # into NAME WHAT: install there
  "$root/$work/$1/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check "$2" --constraint "$root/constraints.txt"
}
cd "$work/elsewhere"
export JAX_PLATFORMS=cpu

say "JAX alone, from the wheel"
"${PYTHON:-python3}" -m venv "$root/$work/jax"
into jax "$wheel[jax]"
"$root/$work/jax/bin/python" "$root/release/jax_only.py"

say "torch alone, from the sdist"
"${PYTHON:-python3}" -m venv "$root/$work/torch"
into torch "$sdist[torch]"
"$root/$work/torch/bin/python" "$root/release/torch_only.py"

say "parity without torch: goldens"
into jax "$wheel[parity]"
"$root/$work/jax/bin/python" "$root/release/jax_only.py" >/dev/null # there is no torch still
"$root/$work/jax/bin/parity" replay "$root/tests/goldens/attention.safetensors" --quiet
"$root/$work/jax/bin/parity" replay "$root/tests/goldens/mlp.safetensors" --pair "$root/examples/parity_golden.py:mlp" --quiet

say "everything"
into torch "$sdist[all]"
"$root/$work/torch/bin/parity" run --suite smoke --quiet

say "types, from outside"
"$root/.venv/bin/mypy" --strict --config-file= --cache-dir "../mypy" --python-executable "$root/$work/torch/bin/python" "$root/release/typed.py"
