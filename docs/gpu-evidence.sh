#!/usr/bin/env bash
# The proof on a GPU: every case of the full suite by the einsum and the cuDNN implementation, in four processes at once;
# then random 16-bit cases by cuDNN. Writes JSON reports into a folder; docs/evidence/ holds those made on an H200.
#   docs/gpu-evidence.sh FOLDER
set -u
python3 -m parity doctor | tee "$1/doctor.txt"
for i in 1 2 3 4; do
  python3 -m parity run --suite full --implementation einsum,cudnn --device gpu --shard $i/4 --quiet \
    --json "$1/full-$i-of-4.json" >"$1/full-$i-of-4.txt" 2>&1 &
done
python3 -m parity run --fuzz 150 --dtype bfloat16,float16 --implementation cudnn --device gpu --quiet \
  --json "$1/fuzz-cudnn.json" >"$1/fuzz-cudnn.txt" 2>&1 &
wait
tail -n 25 "$1"/*.txt
