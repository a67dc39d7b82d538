#!/usr/bin/env bash
# The proof and the figures on a GPU, in parts that each end within ten minutes. Writes JSON reports into a folder;
# docs/evidence/ holds those made on an H200.
#   docs/gpu-evidence.sh FOLDER proof      every case of the full suite by every implementation, eight processes at once
#   docs/gpu-evidence.sh FOLDER fuzz       random 16-bit cases by cuDNN and Triton, and 32-bit ones by Triton
#   docs/gpu-evidence.sh FOLDER bench [N]  the rows of `parity bench`, or only group N of five
set -u
out=$1 part=$2 only=${3:-}
parity() { timeout --signal=INT 560 python3 -m parity "$@"; }

proof() {
  parity doctor | tee "$out/doctor.txt"
  for i in 1 2 3 4 5 6 7 8; do
    parity run --suite full --implementation einsum,blockwise,cudnn,triton --device gpu --shard $i/8 --quiet \
      --json "$out/full-$i-of-8.json" >"$out/full-$i-of-8.txt" 2>&1 &
  done
  wait
  tail -n 12 "$out"/full-*.txt
}

fuzz() {
  parity run --fuzz 150 --dtype bfloat16,float16 --implementation cudnn,triton --device gpu --quiet \
    --json "$out/fuzz-16.json" >"$out/fuzz-16.txt" 2>&1 &
  parity run --fuzz 150 --seed 1 --dtype float32 --implementation triton --device gpu --quiet \
    --json "$out/fuzz-32.json" >"$out/fuzz-32.txt" 2>&1 &
  wait
  tail -n 12 "$out"/fuzz-*.txt
}

# Those that can be the fastest on a row, and what the goals are against; the quadratic ones lose on long rows.
contenders='torch/sdpa*,torch/flex,torch/compiled-einsum,jax.nn/*,ours/auto*,ours/cudnn,ours/triton'
group() {
  [ -z "$only" ] || [ "$only" = "$1" ] || return 0
  parity bench --device gpu --check --time-limit 30 --json "$out/bench-$1.json" "${@:2}" 2>&1 | tee "$out/bench-$1.txt"
}

bench() {
  group 1 --dtype bfloat16 --row 'square*' --contender "$contenders"
  group 2 --row '[bw]*' --contender "$contenders"
  group 3 --dtype bfloat16 --row 'space*' --contender "$contenders"
  group 4 --dtype bfloat16 --row '[!sbw]*' --contender "$contenders,torch/einsum,ours/einsum"
  group 5 --dtype float32 --contender "torch/sdpa*,jax.nn/xla,ours/auto*,ours/einsum,ours/triton,ours/blockwise"
}

"$part"
