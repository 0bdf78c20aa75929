#!/usr/bin/env bash
# Makes the CUDA PJRT plugin of an installed JAX usable from Go; downloads nothing.
#
#   usage: scripts/link-cuda-plugin.sh [DIR]     default DIR: .cache/cuda under the repository
#          PYTHON=/path/to/python scripts/link-cuda-plugin.sh
#
# JAX's wheels (pip install "jax[cuda13]" or "jax[cuda12]") name the plugin xla_cuda_plugin.so, and keep CUDA's libraries
# under site-packages/nvidia. go-xla looks for pjrt_c_api_cuda_plugin.so inside a folder called nvidia that also holds those
# libraries. This builds that folder out of symbolic links:
#
#   DIR/nvidia/pjrt_c_api_cuda_plugin.so -> site-packages/jax_plugins/xla_cuda1*/xla_cuda_plugin.so
#   DIR/nvidia/cudnn, nccl, cu13, ...    -> site-packages/nvidia/*
#   DIR/nvidia/nvvm, bin                 -> the CUDA compiler's files, because go-xla gives DIR/nvidia as CUDA's data folder
#
# and prints the exports for your shell:   eval "$(scripts/link-cuda-plugin.sh)"
#
# PYTHON (default: python3, then python) says whose site-packages to use. When it holds several plugins, the newest CUDA
# is taken. Rerun it after JAX is upgraded. Exit codes: 0 linked, 1 something is wrong, 3 no JAX CUDA plugin is installed.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/wheel.sh"

python=$(python_command) || die 1 "found no python: set PYTHON to the interpreter that has jax[cuda13] or jax[cuda12]"

# The plugin's path, then the site-packages folders that may hold nvidia/*: in a virtual environment with access to the
# system's packages, these are not always the same folder.
found=$("$python" - <<'PY'
import os, site, sys, sysconfig
folders = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages(), site.getusersitepackages(), *sys.path]
folders = list(dict.fromkeys(os.path.abspath(f) for f in folders if f and os.path.isdir(f)))
plugins = [p for cuda in ("xla_cuda13", "xla_cuda12") for f in folders
           if os.path.isfile(p := os.path.join(f, "jax_plugins", cuda, "xla_cuda_plugin.so"))]
print(plugins[0] if plugins else "")
print("\n".join(n for f in folders if os.path.isdir(n := os.path.join(f, "nvidia"))))
PY
)
plugin=$(printf '%s\n' "$found" | head -n 1)
[ -n "$plugin" ] || die 3 "SKIPPED: $python has no jax_plugins/xla_cuda13 or xla_cuda12: pip install \"jax[cuda13]\", or set PYTHON"

dir=${1:-"$here/../.cache/cuda"}
mkdir -p "$dir/nvidia"
dir=$(cd "$dir" && pwd)
find "$dir/nvidia" -mindepth 1 -maxdepth 1 -type l -delete # links of an earlier run; anything else is not ours
[ -z "$(ls -A "$dir/nvidia")" ] || die 1 "$dir/nvidia holds files that this script did not make: choose another DIR"

ln -s "$plugin" "$dir/nvidia/pjrt_c_api_cuda_plugin.so"
libraries=""
while IFS= read -r packages; do
  [ -n "$packages" ] || continue
  for package in "$packages"/*/; do
    package=${package%/}
    name=$(basename "$package")
    if [ "$name" = __pycache__ ] || [ -e "$dir/nvidia/$name" ]; then continue; fi
    ln -s "$package" "$dir/nvidia/$name"
    if [ -d "$package/lib" ]; then libraries=$libraries:$dir/nvidia/$name/lib; fi
    for tool in nvvm bin; do
      if [ -d "$package/$tool" ] && [ ! -e "$dir/nvidia/$tool" ]; then ln -s "$package/$tool" "$dir/nvidia/$tool"; fi
    done
  done
done <<EOF
$(printf '%s\n' "$found" | tail -n +2)
EOF
[ -n "$libraries" ] || die 1 "$python has the plugin $plugin but no nvidia/*/lib: reinstall with pip install \"jax[cuda13]\""

echo "linked $plugin and $(printf '%s' "$libraries" | tr -cd : | wc -c | tr -d ' ') CUDA library folders into $dir/nvidia" >&2
printf 'export PJRT_PLUGIN_LIBRARY_PATH=%q\n' "$dir/nvidia"
printf 'export LD_LIBRARY_PATH=%q${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}\n' "${libraries#:}"
