#!/usr/bin/env bash
# The proof and the figures on a GPU, in parts that each end within ten minutes. Writes JSON reports into a folder;
# docs/evidence/ holds those made on an H200.
#   docs/gpu-evidence.sh FOLDER proof [IMPLEMENTATIONS]   every case of the full suite, by many processes at once
#   docs/gpu-evidence.sh FOLDER fuzz       random 16-bit cases by cuDNN and Triton, and 32-bit ones by Triton
#   docs/gpu-evidence.sh FOLDER bench [N]  the rows of `parity bench`, or group N of them, 1 to 6
# LIMIT is the most seconds that one command may take; what it has by then it writes. With JAX_COMPILATION_CACHE_DIR and
# JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 set, a second run compiles nothing, and takes half the time.
set -u
out=$1 part=$2 argument=${3:-}
mkdir -p "$out"
parity() { timeout --signal=INT "${LIMIT:-560}" python3 -m parity "$@"; }

proof() {
  local shards=14
  parity doctor >"$out/doctor.txt"
  for i in $(seq $shards); do
    parity run --suite full --implementation "${argument:-einsum,blockwise,cudnn,triton}" --device gpu \
      --shard $i/$shards --quiet --json "$out/full-$i.json" >"$out/full-$i.txt" 2>&1 &
  done
  wait
  parity merge "$out"/full-*.json --json "$out/full.json"
}

fuzz() {
  parity run --fuzz 150 --dtype bfloat16,float16 --implementation cudnn,triton --device gpu --quiet \
    --json "$out/fuzz-16.json" >"$out/fuzz-16.txt" 2>&1 &
  parity run --fuzz 150 --seed 1 --dtype float32 --implementation triton --device gpu --quiet \
    --json "$out/fuzz-32.json" >"$out/fuzz-32.txt" 2>&1 &
  wait
  tail -n 12 "$out"/fuzz-*.txt
}

group() {
  local number=$1
  shift
  if [ -z "$argument" ] || [ "$argument" = "$number" ]; then
    parity bench --device gpu --check --time-limit "${ROW_LIMIT:-30}" --repeats "${REPEATS:-5}" \
      --json "$out/bench-$number.json" "$@" >"$out/bench-$number.txt" 2>&1
  fi
}

# torch's own choice is one of its kernels; those that were far behind on such rows before are left out (h200/2026-11-25).
bench() {
  local kernels='torch/sdpa-cudnn,jax.nn/xla,ours/auto'
  group 1 --row 'square*' --dtype bfloat16 --contender "$kernels,torch/sdpa-flash"
  group 2 --dtype float32 --contender "torch/sdpa-efficient,jax.nn/xla,ours/auto"
  group 3 --row 'space*' --dtype bfloat16 --contender "$kernels,torch/sdpa-efficient"
  group 4 --row '[tmo]*' --dtype bfloat16 --contender "$kernels,torch/sdpa-efficient,torch/compiled-einsum"
  group 5 --row '[bw]*' --contender "$kernels,torch/sdpa-efficient,torch/flex,torch/sdpa-lower-right"
  group 6 --row 'long*' --dtype bfloat16 --contender "$kernels,torch/sdpa-flash"
}

"$part"
