#!/usr/bin/env bash
# The proof on a GPU: every case of the full suite, by the einsum and the cuDNN implementation.
# Writes one JSON report; docs/evidence/ holds those that were made on an H200.
#   docs/gpu-evidence.sh OUTPUT.json
set -u
python3 -m parity doctor
python3 -m parity run --suite full --implementation einsum,cudnn --device gpu --quiet --json "$1"
