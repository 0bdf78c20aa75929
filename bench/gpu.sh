#!/usr/bin/env bash
# Repeats the GPU tables of bench/RESULTS.md on the card at hand: one line of JSON per row.
#
#   usage: bench/gpu.sh [PART…]      parts: fast lean float8 small trainer variants attention decode first long jax; default: fast to decode
#
# Each row of "fast" and "float8" has a process of its own: what one leaves in XLA's pool is not there for the next. "first" needs
# MODEL, a folder of a Llama-3-8B in bfloat16 (bench/peers/make_model.py makes one), and 30 GB of disk under OUT; "long" takes ten minutes.
# "jax" has Loris and bench/peers/jax_step.py in turn, Loris before and behind, in processes of their own. It needs nvcc on PATH, and as MODEL
# a folder that make_model.py --draw codes made: JAX's step draws its weights like that. OUT (default: a new temporary folder) gets
# profiles. Programs are built if BIN, a folder with step, trainer and decode, is not given.
set -euo pipefail
cd "$(dirname "$0")/.."
export GOTOOLCHAIN=go1.27.3 GOEXPERIMENT=simd
out=${OUT:-$(mktemp -d)}
bin=${BIN:-$out/bin}
if [ -z "${BIN:-}" ]; then
  mkdir -p "$bin"
  for p in step trainer decode; do go build -o "$bin/$p" "./bench/$p"; done
fi
eval "$(scripts/link-cuda-plugin.sh)"
nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader

step() { "$bin/step" -backend xla:cuda "$@"; }
long() { # GiB of the card, tokens: XLA's pool and CUDA's 0.6 GiB stay within the card
  local total
  total=$(nvidia-smi --query-gpu=memory.total --format=csv,noheader,nounits | head -1)
  step -backend "xla:cuda,memory_fraction=$(awk -v cap="$1" -v mib="$total" 'BEGIN { print (cap - 0.6) / (mib / 1024) }')" \
    -optim adamw_8bit -warmup 0 -steps 1 "1x$2:0"
}
against_jax() { # rows, budget, JAX's flags in a word, Loris's flags
  local rows=$1 budget=$2 peer=$3
  shift 3
  step -model "${MODEL:?}" "$@" "${rows}x2048:$budget"
  # shellcheck disable=SC2086
  PTX="$out/ptx" python3 bench/peers/jax_step.py --rows "$rows" $peer
  step -model "$MODEL" "$@" "${rows}x2048:$budget"
}

for part in "${@:-fast lean float8 small trainer variants attention decode}"; do
  for p in $part; do
    echo "== $p"
    case $p in
      fast) for rows in 2 4 8; do step -profile "$out/fast$rows.csv" "${rows}x2048:auto"; done ;;
      lean) step -optim adamw_8bit 2x2048:0 8x2048:0 ;;
      float8) for rows in 2 4 8; do step -compute fp8 -profile "$out/float8-$rows.csv" "${rows}x2048:auto"; done ;;
      small)
        for base in 16bit full; do
          step -shape smollm2-135m -base $base 16x1024:auto
          python3 bench/peers/torch_step.py --shape smollm2-135m --base $base --device cuda --dtype bfloat16 --batch 16 --length 1024 --steps 20
        done ;;
      trainer) "$bin/trainer" -backend xla:cuda -turns 2 2>/dev/null ;;
      variants)
        step -dropout 0.05 2x2048:auto
        step -dora 2x2048:auto
        step -dtype float16 -tiled -cap 16106127360 -optim adamw_8bit 1x2048:auto ;;
      attention)
        LORIS_TEST_BACKENDS=xla:cuda go test ./attention -run xxx -bench 'Attend/xla/S=(2048|8192|32768)$/d=/docs=1$/(cudnn|tiled)$' -benchtime 15x
        python3 bench/peers/sdpa.py --backend cudnn ;;
      decode)
        "$bin/decode" -backend xla:cuda -batch 1,32 -prompt 128 -new 128
        python3 bench/peers/decode.py --shape llama-3-8b --device cuda --batch 1,32 --prompt 128 --new 64 ;;
      first)
        step -model "${MODEL:?}" -steps 1 -warmup 1 2x2048:auto
        "$bin/step" -model "$MODEL" -save "$out/nf4"
        for _ in cold warm; do step -model "$out/nf4" -cache "$out/programs" -steps 1 -warmup 1 2x2048:auto; done ;;
      jax)
        against_jax 2 auto "--keep all"
        against_jax 2 0 "--keep nothing" -optim adamw_8bit
        against_jax 8 0 "--keep nothing" -optim adamw_8bit
        against_jax 8 auto "--keep all"
        against_jax 8 auto "--compute fp8" -compute fp8 ;;
      long) long 16 57344; long 24 98304; long 48 200704; long 78 344064 ;;
      *) echo "unknown part $p" >&2; exit 2 ;;
    esac
  done
done
