#!/usr/bin/env bash
# Measures everything and writes one results file: benches/results/DATE-COMMIT.md
#
#     bash benches/all.sh               everything, about half an hour on two cores
#     bash benches/all.sh transfer      only the transfers; or: cells, parts
#     LOCK='flock /tmp/lock' bash benches/all.sh     each measurement behind this command
#
# The machine should have nothing else to do. Rivals that are not installed are named and left out:
#     apt install nginx-light curl aria2 b3sum    pip install libtorrent    cargo install rqbit
# The slow disk of `cells disks` needs root.
set -euo pipefail
cd "$(dirname "$0")/.."
wanted=${1:-all}
bin=${CARGO_TARGET_DIR:-target}/release

cargo build --release --locked -p minibit-cli -p minibit-benches
results=benches/results/$(date -u +%F)-$(git describe --always --dirty).md
{
    echo "# $(date -u +%F), commit $(git describe --always --dirty)"
    echo
    echo "Raw output of \`bash benches/all.sh${1:+ $1}\`. docs/performance.md says what the cells are."
} >"$results"

# One measurement: its command line, then what it prints. A cell that fails says so and the rest goes on.
run() {
    printf '\n## %s\n\n' "$*" >>"$results"
    echo "== $*" >&2
    # shellcheck disable=SC2086 # LOCK is a command with its arguments
    ${LOCK:-} "$bin/$1" "${@:2}" >>"$results" || printf '\nfailed\n' >>"$results"
}

transfers() {
    run transfer --runs 5 --beside cp,pipeline,pipeline-reused,nginx,libtorrent,rqbit,minibit,minibit-reused,minibit-one-lane
    run transfer --runs 5 --beside aria2,minibit
    run transfer --runs 5 --receivers 4 --size 512 --beside cp,pipeline,nginx,libtorrent,rqbit,minibit
    run transfer --runs 5 --receivers 9 --size 512 --beside cp,pipeline,nginx,libtorrent,rqbit,minibit
}

cells() {
    for cell in start hash small links pieces disks sizes; do
        run cells "$cell"
    done
    run cells distance --size 512
    run cells distance --size 256 --lanes 1,2,4,8,16
}

# Criterion's medians, without its reports.
parts() {
    printf '\n## cargo bench\n\n```text\n' >>"$results"
    for bench in rarity codec verify store tracker loopback; do
        # shellcheck disable=SC2086
        ${LOCK:-} cargo bench --locked -p minibit-benches --bench "$bench" -- --noplot |
            grep -E '^[^ ].*time:|^ +time:|^[a-z].*/' >>"$results" || true
    done
    printf '```\n' >>"$results"
}

case $wanted in
all) transfers && cells && parts ;;
transfer) transfers ;;
cells | parts) $wanted ;;
*) echo "all.sh [transfer | cells | parts]" >&2 && exit 2 ;;
esac
echo "$results"
