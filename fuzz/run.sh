#!/bin/sh
# Runs every fuzz target for some seconds (5 unless the first argument says), from its seeds.
#
#   fuzz/run.sh [SECONDS] [TARGET...]
#
# Needs cargo-fuzz, which it installs, and a compiler that takes unstable flags: nightly if it is
# there, else the default one told to behave as such (RUSTC_BOOTSTRAP).
set -eu
cd "$(dirname "$0")/.."

CARGO_FUZZ_VERSION=0.13.1
seconds=${1:-5}
[ $# -gt 0 ] && shift

if ! cargo fuzz --version >/dev/null 2>&1; then
    cargo install cargo-fuzz --locked --version "$CARGO_FUZZ_VERSION"
fi
if cargo +nightly --version >/dev/null 2>&1; then
    fuzz() { cargo +nightly fuzz "$@"; }
else
    fuzz() { RUSTC_BOOTSTRAP=1 cargo fuzz "$@"; }
fi

[ $# -gt 0 ] || set -- $(fuzz list)
fuzz build
for target in "$@"; do
    mkdir -p "fuzz/corpus/$target"
    seeds="fuzz/seeds/$target"
    [ -d "$seeds" ] || seeds=
    echo "== $target, $seconds s" >&2
    # shellcheck disable=SC2086 # no seeds, no argument
    fuzz run "$target" "fuzz/corpus/$target" $seeds -- \
        -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -verbosity=0 -print_final_stats=0
done
