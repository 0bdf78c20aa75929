#!/usr/bin/env bash
# Compiles the kernels (*.cu) to PTX for GPUs from compute capability 8.0 on (fp8_*.cu: 8.9), and writes the *.ptx that package kernels embeds.
#
#   usage: internal/kernels/compile.sh [--sass]
#
# With --sass also assembles the PTX for several GPUs and reports registers, spills and shared memory; the result is not kept.
#
# The compiler is NVRTC 12.1 (PTX ISA 8.1, which drivers from 530 on take), out of the wheel nvidia-cuda-nvrtc-cu12 (23 MB);
# the assembler is ptxas of nvidia-cuda-nvcc-cu12 (40 MB). Both are NVIDIA's, under its CUDA EULA; they are downloaded to
# .cache/cuda-toolchain and not kept in the repository. Needs Linux x86-64, python3, and pip or curl.
#
# Exit codes: 0 done, 1 something is wrong, 3 skipped because nothing could be downloaded.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
. "$root/scripts/wheel.sh"

# NVIDIA's wheels carry older tags than the one that wheel.sh asks for; pip takes them as manylinux2014.
download_by_pip() { # download_by_pip PACKAGE VERSION FOLDER
  "$(python_command)" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
    --platform manylinux2014_x86_64 --dest "$3" "$1==$2"
}

tools=$root/.cache/cuda-toolchain
fetch() { # fetch PACKAGE VERSION TAG WHEEL_SHA256 MEMBER
  local target
  target=$tools/$1-$2/$(basename "$5")
  [ -f "$target" ] || extract_from_wheel "$1" "$2" "${1//-/_}-$2-py3-none-$3.whl" "$4" "$5" "$target"
}
nvrtc=nvidia-cuda-nvrtc-cu12 nvrtc_version=12.1.105
for member in libnvrtc.so.12 libnvrtc-builtins.so.12.1; do
  fetch $nvrtc $nvrtc_version manylinux1_x86_64 339b385f50c309763ca65456ec75e17bbefcbbf2893f462cb8b90584cd27a1c2 nvidia/cuda_nvrtc/lib/$member
done

LD_LIBRARY_PATH=$tools/$nvrtc-$nvrtc_version "$(python_command)" "$here/compile.py" "$tools/$nvrtc-$nvrtc_version/libnvrtc.so.12"

if [ "${1:-}" = --sass ]; then
  nvcc=nvidia-cuda-nvcc-cu12 nvcc_version=12.8.93
  fetch $nvcc $nvcc_version manylinux2010_x86_64.manylinux_2_12_x86_64 2d6dc36fb7cb5ac9c0b8825bc13d193c35487a315664007287d0126531238011 nvidia/cuda_nvcc/bin/ptxas
  ptxas=$tools/$nvcc-$nvcc_version/ptxas
  chmod +x "$ptxas"
  for gpu in sm_80 sm_86 sm_89 sm_90 sm_100 sm_120; do
    for ptx in "$here"/*.ptx; do
      case $gpu-$(basename "$ptx") in sm_80-fp8_* | sm_86-fp8_*) continue ;; esac
      echo "== $gpu $(basename "$ptx")"
      "$ptxas" -v -arch=$gpu -o /dev/null "$ptx" 2>&1 | grep -v 'gmem\|^$'
    done
  done
fi
