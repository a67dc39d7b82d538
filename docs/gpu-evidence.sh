#!/usr/bin/env bash
# The proof and the figures on a GPU, in parts that each end within ten minutes. Writes JSON reports into a folder;
# docs/evidence/ holds those made on an H200.
#   docs/gpu-evidence.sh FOLDER proof [IMPLEMENTATIONS]   every case of the full suite, by eight processes at once
#   docs/gpu-evidence.sh FOLDER fuzz     random 16-bit cases by cuDNN, Triton and tokamax, and 32-bit ones by Triton
#   docs/gpu-evidence.sh FOLDER bench N  group N of the rows of `parity bench`: 1 to 6
# LIMIT is the most seconds that one command may take; what it has by then it writes.
set -u
out=$1 part=$2 argument=${3:-}
mkdir -p "$out"
parity() { timeout --signal=INT "${LIMIT:-560}" python3 -m parity "$@"; }

proof() {
  parity doctor >"$out/doctor.txt"
  for i in 1 2 3 4 5 6 7 8; do
    parity run --suite full --implementation "${argument:-einsum,blockwise,cudnn,triton,tokamax}" --device gpu \
      --shard $i/8 --quiet --json "$out/full-$i-of-8.json" >"$out/full-$i-of-8.txt" 2>&1 &
  done
  wait
  tail -n 12 "$out"/full-*.txt
}

fuzz() {
  parity run --fuzz 150 --dtype bfloat16,float16 --implementation cudnn,triton,tokamax --device gpu --quiet \
    --json "$out/fuzz-16.json" >"$out/fuzz-16.txt" 2>&1 &
  parity run --fuzz 150 --seed 1 --dtype float32 --implementation triton --device gpu --quiet \
    --json "$out/fuzz-32.json" >"$out/fuzz-32.txt" 2>&1 &
  wait
  tail -n 12 "$out"/fuzz-*.txt
}

# torch's own choice is one of its kernels; the quadratic ones lose on long rows.
kernels='torch/sdpa-flash,torch/sdpa-efficient,torch/sdpa-cudnn,jax.nn/xla,ours/auto'
group() {
  parity bench --device gpu --check --time-limit 30 --repeats 5 --json "$out/bench-$argument.json" "$@" 2>&1 |
    tee "$out/bench-$argument.txt"
}

bench() {
  local contenders="$kernels,ours/cudnn,ours/triton,ours/tokamax"
  local short="$kernels,ours/triton,torch/einsum,torch/compiled-einsum,ours/einsum"
  case $argument in
    1) group --row '[bw]*' --contender "$contenders,torch/flex,torch/sdpa-lower-right" ;;
    2) group --row '[tmo]*' --dtype bfloat16 --contender "$short" ;;
    3) group --row 'square*' --dtype bfloat16 --contender "$contenders,jax.nn/cudnn" ;;
    4) group --row 'space*' --dtype bfloat16 --contender "$contenders,torch/flex" ;;
    5) group --row 'long*' --dtype bfloat16 --contender "$contenders" ;;
    6) group --dtype float32 --contender "torch/sdpa-efficient,jax.nn/xla,ours/auto,ours/einsum,ours/triton,ours/blockwise" ;;
  esac
}

"$part"
