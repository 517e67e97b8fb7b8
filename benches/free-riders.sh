#!/usr/bin/env bash
# What do free riders cost the honest? The tables of docs/swarm.md, made anew.
#
#     cargo build --release && bash benches/free-riders.sh            about seven minutes of one core
#     bash benches/free-riders.sh --cells 31MiB@10 60x120@1 --seeds 3
#     bash benches/free-riders.sh --cells 1000x1000@10 --seeds 1    minutes for each of three swarms
#
# Why it exists: a rule that is changed must be seen to be better in all these swarms, not in the one
# that it was made for, and whoever doubts a figure of the tables should get the same. Each cell is a
# swarm that is simulated three times with the same seeds: with the honest peers alone, then with as
# many of these and two in five of all that take and never give, once such as link to everybody
# they hear of and once such as link to no more than others do. Everybody sends at the same rate, the
# one seeder too. A cell's row says
#   alone           when the last honest peer was done without free riders, median of seeds, in seconds
#   later           by how much the last honest peer was later beside them, over that median: median
#                   of seeds (least and most of a seed)
#   riders' rate    at what part of the honest peers' mean rate they were served, median of seeds
#
# Cells are named by what they are:
#   31MiB@10        60 peers, 31 MiB in pieces as long as `share` makes them, 10 Mbit/s
#   60x120@1        60 peers, 120 pieces of 256 KiB, 1 Mbit/s
# Any others of these two forms may be named, too.
#
# What it will not do: touch a network or run real peers (`simulate` has neither; beside real ones:
# real-swarm.sh); judge the figures; show seeds one by one (`minibit simulate --runs`). All times
# are the swarms' own, so that a busy machine changes none of them, and the same program and seeds
# give the same table.
#
# Needs jq. Exit: 0 if every honest peer of each swarm was done; 1 if not; 2 if it cannot run.
set -euo pipefail
export LC_ALL=C

shares=({256,64,31,16,4}MiB@{1,10,50})
coarse=(60x1000@10 30x120@1 60x120@1 30x60@1 40x60@0.5 60x120@20)

usage() {
    cat <<USAGE
usage: free-riders.sh [options]
  --minibit PATH      the program (target/release/minibit)
  --seeds N           seeds 1 to N (5)
  --cells NAME...     only these cells; or: shares, coarse (both)
  --jobs N            so many cells at a time (1)
  --timeout SECONDS   longest for one of a cell's three swarms, all seeds together (3600)
shares: ${shares[*]}
coarse: ${coarse[*]}; and, only if named, for it takes minutes: 1000x1000@10
USAGE
}

fail() { echo "free-riders: $*" >&2; exit 2; }

here=$(cd "$(dirname "$0")/.." && pwd)
bin=${CARGO_TARGET_DIR:-$here/target}/release/minibit seeds=5 jobs=1 timeout=3600 names=()
while (($#)); do
    case $1 in -h | --help) usage; exit 0 ;; esac
    (($# > 1)) || { usage >&2; exit 2; }
    case $1 in
        --minibit) bin=$2 ;; --seeds) seeds=$2 ;; --jobs) jobs=$2 ;; --timeout) timeout=$2 ;;
        --cells)
            while (($# > 1)) && [[ $2 != -* ]]; do names+=("$2"); shift; done
            ((${#names[@]})) || { usage >&2; exit 2; }
            shift
            continue
            ;;
        *) usage >&2; exit 2 ;;
    esac
    shift 2
done
for n in "$seeds" "$jobs" "$timeout"; do
    [[ $n =~ ^[1-9][0-9]{0,4}$ ]] || fail "not a number: $n"
done
for tool in jq timeout mktemp; do command -v "$tool" >/dev/null || fail "needs $tool"; done
[[ -x $bin ]] || fail "no program at $bin: cargo build --release, or --minibit"
bin=$(realpath "$bin")

# Sets, by a cell's name: its kind, what it is called in the table, how many peers, how it is simulated.
describe() {
    local pieces size rate
    if [[ $1 =~ ^([1-9][0-9]{0,3})MiB@([0-9.]{1,6})$ ]]; then
        local mib=${BASH_REMATCH[1]}
        # Beyond that a piece is longer than a MiB, and not all shares are whole pieces.
        ((mib <= 2048)) || fail "at most 2048MiB: $1"
        # As PieceSize::for_total has it: the least power of two that makes 2,048 pieces at most.
        size=16
        while ((mib * 1024 > size * 2048)); do size=$((size * 2)); done
        rate=${BASH_REMATCH[2]} kind=shares peers=60 pieces=$((mib * 1024 / size))
        title="$mib MiB in $size KiB, $rate Mbit/s"
    elif [[ $1 =~ ^([1-9][0-9]{0,4})x([1-9][0-9]{0,5})@([0-9.]{1,6})$ ]]; then
        kind=coarse peers=${BASH_REMATCH[1]} pieces=${BASH_REMATCH[2]} size=256 rate=${BASH_REMATCH[3]}
        title="$peers, $pieces, $rate Mbit/s"
    else
        fail "no cell is called $1: 31MiB@10, 60x120@1, shares, coarse"
    fi
    arguments=(--pieces "$pieces" --piece-size "${size}KiB" --upload "${rate}Mbit" --seeder-upload "${rate}Mbit")
}

cells=()
((${#names[@]})) || names=(shares coarse)
for name in "${names[@]}"; do
    case $name in
        shares) cells+=("${shares[@]}") ;;
        coarse) cells+=("${coarse[@]}") ;;
        *) describe "$name"; cells+=("$name") ;;
    esac
done

# ---- what has to go again, whatever happens ----

scratch=$(mktemp -d "${TMPDIR:-/tmp}/minibit-free-riders.XXXXXX")
# No settings of whoever runs it.
export HOME=$scratch XDG_CONFIG_HOME=$scratch
unset "${!MINIBIT_@}"

clean_up() {
    local status=$? pid
    trap - EXIT
    trap '' INT TERM HUP
    set +e
    # The cells under way, each of which ends its swarm.
    for pid in $(jobs -rp); do kill -TERM "$pid" 2>/dev/null; done
    wait
    rm -rf "$scratch"
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# ---- one cell ----

# Simulates a swarm with all seeds; one event for each is in `$dir/$1` then.
swarm() {
    local events=$dir/$1 status=0
    shift
    timeout "$timeout" "$bin" simulate --json --runs "$seeds" "${arguments[@]}" "$@" >"$events.all" 2>"$events.err" &
    child=$!
    wait "$child" || status=$?
    jq -c 'select(.event == "simulated")' "$events.all" >"$events"
    # It exits with 1 if somebody was never done, which the row tells.
    if ((status > 1)) || (($(wc -l <"$events") != seeds)); then
        if ((status == 124)); then
            echo "given up after $timeout s"
        else
            grep -m 1 '^error' "$events.err" || tail -n 1 "$events.err"
        fi >"$dir/failed"
        return 1
    fi
}

# Alone, then later (median, least, most) and rate for each kind of rider; or how many seeds were never done.
# shellcheck disable=SC2016 # jq expands these
figures='
def median: sort | (.[(length - 1) / 2 | floor] + .[length / 2 | floor]) / 2;
def unfinished: map(select(.finished | not)) | length;
($alone + $view + $plain | unfinished) as $never
| if $never > 0 then "never \($never)" else
    ($alone | map(.last_seconds) | median) as $base
    | [$base, ($view, $plain
        | (map(100 * (.last_seconds / $base - 1)) | median, min, max),
          (map((.free_rider_rate // 0) / .honest_rate) | median))]
    | map(tostring) | join(" ")
  end'

# Writes the cell's row, whatever comes of it.
one_cell() {
    local dir=$scratch/$1 row=$scratch/$1.row child='' kind title peers arguments
    trap - EXIT INT HUP
    trap 'kill -TERM "$child" 2>/dev/null; wait; exit 143' TERM
    mkdir "$dir"
    describe "$2"
    if swarm alone --peers $((peers - peers * 40 / 100)) &&
        swarm view --peers "$peers" --large-view 40% && swarm plain --peers "$peers" --free-riders 40%; then
        # shellcheck disable=SC2046 # numbers
        set -- $(jq -rn --slurpfile alone "$dir/alone" --slurpfile view "$dir/view" --slurpfile plain "$dir/plain" "$figures")
        if [[ $1 == never ]]; then
            echo "| $title | not everybody was ever done in $2 of $((3 * seeds)) swarms | | | | |"
        else
            printf '| %s | %.1f | %.1f %% (%.0f–%.0f) | %.2f | %.1f %% (%.0f–%.0f) | %.2f |\n' "$title" "$@"
        fi
    else
        echo "| $title | failed: $(cat "$dir/failed") | | | | |"
    fi >"$row.new"
    rm -rf "$dir"
    mv "$row.new" "$row"
}

# ---- the tables, in the order in which cells were named ----

printed=0 last_kind='' wrong=0
print_rows() {
    local row
    while ((printed < ${#cells[@]})) && [[ -e $scratch/$printed.row ]]; do
        row=$(cat "$scratch/$printed.row")
        describe "${cells[printed]}"
        if [[ $kind != "$last_kind" ]]; then
            echo
            if [[ $kind == shares ]]; then echo -n '| share, rate'; else echo -n '| peers, pieces, rate'; fi
            # shellcheck disable=SC2016 # Markdown
            echo ' | alone, s | `--large-view 40%`: later | riders'\'' rate | `--free-riders 40%`: later | riders'\'' rate |'
            echo '|---|---|---|---|---|---|'
            last_kind=$kind
        fi
        echo "$row"
        if [[ $row == *'| | | | |' ]]; then wrong=1; fi
        printed=$((printed + 1))
    done
}

echo "$("$bin" --version), seeds 1 to $seeds, 40 % free riders"
for at in "${!cells[@]}"; do
    while (($(jobs -rp | wc -l) >= jobs)); do wait -n || true; done
    print_rows
    one_cell "$at" "${cells[at]}" &
done
while ((printed < ${#cells[@]})); do
    running=$(jobs -rp | wc -l)
    print_rows
    if ((printed < ${#cells[@]})); then
        # A cell that is gone and left no row was ended by somebody.
        ((running)) || { echo "free-riders: cell ${cells[printed]} ended too soon" >&2; exit 1; }
        wait -n || true
    fi
done
((wrong == 0)) || { echo "not every swarm was done" >&2; exit 1; }
