#!/usr/bin/env bash
# Fetches an XLA PJRT plugin for the CPU (Linux x86-64) and prints how to use it.
#
#   usage: scripts/fetch-xla-cpu.sh [DIR]        default DIR: .cache/xla under the repository
#
# Takes pjrt_c_api_cpu_plugin.so (200 MB) out of the wheel lammps-jax-pjrt-cpu 0.11.2 (62 MB, Apache-2.0) and checks its
# SHA-256. Does nothing when DIR already holds it. Needs pip or curl, and python3 or unzip. The last line on stdout is the
# export for your shell:
#
#   eval "$(scripts/fetch-xla-cpu.sh)"
#
# Exit codes: 0 the plugin is there, 1 something is wrong, 3 skipped because nothing could be downloaded.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/wheel.sh"

wheel=lammps_jax_pjrt_cpu-0.11.2-py3-none-manylinux_2_27_x86_64.whl
wheel_sha256=1319390d948b39f69f7dade496b7c385149d9ca6097a6b62114da113216d9ad1
plugin_sha256=ad1309ac822b1b24d51b7f9947c7c9fa9ef5d67f390584cbc3d1fa2428fed9c2

[ "$(uname -s) $(uname -m)" = "Linux x86_64" ] || die 1 "this plugin runs on Linux x86_64 only, not on $(uname -s) $(uname -m)"

dir=${1:-"$here/../.cache/xla"}
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
plugin=$dir/pjrt_c_api_cpu_plugin.so

if [ -f "$plugin" ] && [ "$(sha256_of "$plugin")" = "$plugin_sha256" ]; then
  echo "$plugin is up to date" >&2
else
  extract_from_wheel lammps-jax-pjrt-cpu 0.11.2 "$wheel" "$wheel_sha256" lammps_jax_pjrt_cpu/pjrt_c_api_cpu_plugin.so "$plugin"
  echo "wrote $plugin" >&2
fi
printf 'export PJRT_PLUGIN_LIBRARY_PATH=%q\n' "$dir"
