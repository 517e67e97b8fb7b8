#!/usr/bin/env bash
# Does a real swarm take as long as `minibit simulate` says?
#
#     cargo build --release && sudo bash benches/real-swarm.sh
#     sudo bash benches/real-swarm.sh --peers 10 --upload 10mbit --size 16 --runs 5
#
# Why it exists: what the simulator says about swarms is only worth something if real processes on
# real TCP end up near it. On loopback nothing limits a peer but the processor, so no such swarm can
# be compared with a simulated one. Here every peer is a process in a network namespace of its own,
# whose way out the kernel holds to a set rate (tc tbf); namespaces are joined by a bridge.
# `minibit share` runs in one, `minibit get --seed` in the others, all let go at one moment. When all
# are done, each copy is compared with the original and the same swarm is simulated.
#
# The simulator is run three times, and never told how long the real swarm took:
#   at the set rate      its uploads are --upload, which in the simulator is payload alone;
#   at the payload rate  its uploads are --upload times the part of the bytes through tbf that was
#                        payload, from the counters of tc and of the peers. tbf counts whole
#                        Ethernet frames: TCP/IP headers, acknowledgements, messages and what TCP
#                        sent again all use up the rate;
#   with the queue       the same, and whatever is sent takes as long as a frame may wait in tbf
#                        (--queue): ways out are busy most of the time, so that queue is mostly
#                        full. The simulator has no queues; this is the nearest that it can be told.
# It also says how full the ways out were, so that a slow swarm can be told from a full one.
#
# Two things differ from the simulator by design, and each has an option to take it away:
#   --lanes 1            the simulator has one connection for each pair of peers, processes more;
#   --send-buffer 16     for the simulator a block was sent when its last byte left at the set
#                        rate, for a process when the kernel took it (see `behind`).
#
# What it will not do: touch the network outside its own namespaces (the veth pairs are born inside
# them; nothing is routed, no address or rule of the machine changes); delay or drop packets (no
# netem: the distance is the machine's own and that of the queues); change anything of the machine
# for good; say anything about more peers than one machine can run, or rates at which the processor
# is the limit. Look at the column `idle`: near 0 %, the processors were busy, with this or with
# something else, and the times are worth less.
#
# Needs root, Linux, iproute2 (ip, tc, ss), jq. `ping` is used if it is there.
# Exit: 0 if all copies were right, whatever the times; 1 if not; 2 if it cannot run.
set -euo pipefail
export LC_ALL=C

usage() {
    cat <<'USAGE'
usage: real-swarm.sh [options]
  --peers N           processes in all, the seeder among them (20)
  --upload RATE       what each can send, in kbit or mbit as tc has them (20mbit)
  --download RATE     what each can receive; no bound if left out
  --size MIB          length of the file (32)
  --runs N            how often (3)
  --queue TIME        longest wait in tbf before it drops, ms (50ms)
  --congestion NAME   TCP congestion control inside the namespaces; the kernel's default if left out
  --send-buffer KIB   most that TCP buffers for a connection that sends, inside the namespaces
                      (tcp_wmem); the kernel's default if left out
  --lanes N           connections to each peer; as the program has it if left out
  --timeout SECONDS   give a run up after (180)
  --dir DIR           where files go, N+1 times --size (TMPDIR or /tmp)
  --minibit PATH      the program (target/release/minibit)
  --sim-runs N        simulated swarms whose median is printed (9)
USAGE
}

fail() { echo "real-swarm: $*" >&2; exit 2; }

here=$(cd "$(dirname "$0")/.." && pwd)
peers=20 upload=20mbit download='' size=32 runs=3 queue=50ms congestion='' send_buffer='' lanes=() timeout=180 sim_runs=9
base=${TMPDIR:-/tmp} bin=${CARGO_TARGET_DIR:-$here/target}/release/minibit
while (($#)); do
    case $1 in -h | --help) usage; exit 0 ;; esac
    (($# > 1)) || { usage >&2; exit 2; }
    case $1 in
        --peers) peers=$2 ;; --upload) upload=$2 ;; --download) download=$2 ;; --size) size=$2 ;;
        --runs) runs=$2 ;; --queue) queue=$2 ;; --congestion) congestion=$2 ;;
        --send-buffer) send_buffer=$2 ;; --lanes) lanes=(--lanes "$2") ;;
        --timeout) timeout=$2 ;; --dir) base=$2 ;; --minibit) bin=$2 ;; --sim-runs) sim_runs=$2 ;;
        *) usage >&2; exit 2 ;;
    esac
    shift 2
done
for n in "$peers" "$size" "$runs" "$timeout" "$sim_runs" "${send_buffer:-1}"; do
    [[ $n =~ ^[1-9][0-9]{0,5}$ ]] || fail "not a number: $n"
done
((peers >= 2 && peers <= 200)) || fail "--peers takes 2 to 200"
[[ $queue =~ ^[1-9][0-9]*ms$ ]] || fail "not a time like 50ms: $queue"
[[ $(uname) == Linux && $EUID == 0 ]] || fail "needs Linux and root, for network namespaces"
for tool in ip tc ss jq cmp awk paste; do command -v "$tool" >/dev/null || fail "needs $tool"; done
[[ -x $bin ]] || fail "no program at $bin: cargo build --release, or --minibit"
bin=$(realpath "$bin")

# bits per second of a rate
bits() {
    [[ $1 =~ ^([1-9][0-9]*)([km])bit$ ]] || fail "not a rate like 20mbit or 800kbit: $1"
    if [[ ${BASH_REMATCH[2]} == k ]]; then echo $((BASH_REMATCH[1] * 1000)); else echo $((BASH_REMATCH[1] * 1000000)); fi
}
rate=$(bits "$upload")
down=0
if [[ -n $download ]]; then down=$(bits "$download"); fi
# tbf's bucket: 5 ms worth, but never less than two frames, or nothing large passes.
burst() { local b=$(($1 / 8 / 200)); echo $((b < 3200 ? 3200 : b)); }

# ---- what has to go again, whatever happens ----

tag=mbrs$$
last=$((peers - 1))
scratch=$(mktemp -d "$base/minibit-real-swarm.XXXXXX")
pids=()       # of this run's minibit processes
spaces=()     # namespaces that were made

# Ends this run's processes; those that do not end within three seconds are killed.
end_processes() {
    local pid n alive
    for pid in "${pids[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
    for n in {1..30}; do
        alive=0
        for pid in "${pids[@]}"; do if kill -0 "$pid" 2>/dev/null; then alive=1; fi; done
        ((alive)) || break
        sleep 0.1
    done
    for pid in "${pids[@]}"; do kill -KILL "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
    pids=()
}

clean_up() {
    local status=$? space pid
    trap - EXIT
    trap '' INT TERM HUP
    set +e
    end_processes
    for space in "${spaces[@]}"; do
        # Nothing should be left; what is in a namespace that was made here was started here.
        for pid in $(ip netns pids "$space" 2>/dev/null); do kill -KILL "$pid" 2>/dev/null; done
        ip netns del "$space" 2>/dev/null
    done
    rm -rf "$scratch"
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# ---- the network ----

at() { local space=$1; shift; ip netns exec "$tag-$space" "$@"; }
add_space() {
    spaces+=("$tag-$1")
    ip netns add "$tag-$1"
    ip -n "$tag-$1" link set lo up
}
limit() { # namespace, interface, bits per second
    tc -n "$tag-$1" qdisc add dev "$2" root tbf rate "${3}bit" burst "$(burst "$3")" latency "$queue"
}

add_space bridge
ip -n "$tag-bridge" link add br0 type bridge stp_state 0
ip -n "$tag-bridge" link set br0 up
for n in $(seq 0 $last); do
    add_space "$n"
    ip -n "$tag-$n" link add eth0 type veth peer name "p$n" netns "$tag-bridge"
    ip -n "$tag-$n" addr add "10.213.77.$((n + 1))/24" dev eth0
    ip -n "$tag-$n" link set eth0 up
    ip -n "$tag-bridge" link set "p$n" master br0 up
    if [[ -n $congestion ]]; then
        at "$n" sysctl -qw "net.ipv4.tcp_congestion_control=$congestion" ||
            fail "namespaces may use: $(sysctl -n net.ipv4.tcp_allowed_congestion_control)"
    fi
    if [[ -n $send_buffer ]]; then
        at "$n" sysctl -qw "net.ipv4.tcp_wmem=4096 16384 $((send_buffer * 1024))"
    fi
    limit "$n" eth0 "$rate"
    if ((down)); then limit bridge "p$n" "$down"; fi
done
buffer=$(at 0 sysctl -n net.ipv4.tcp_wmem | awk '{ print $3 / 1024 }')
control=$(at 0 sysctl -n net.ipv4.tcp_congestion_control)

# ---- one run ----

# Writes each line with the time before it. Of a quiet line a second: costs nothing.
stamp() { local line; while IFS= read -r line; do printf '%s %s\n' "$EPOCHREALTIME" "$line"; done >"$1"; }
calc() { awk "BEGIN { printf \"$1\", $2 }"; }
# What all peers' tbf counted: `bytes` it let out, or packets it `drops`
counted() {
    local n
    for n in $(seq 0 $last); do tc -s -j -n "$tag-$n" qdisc show dev eth0; done |
        jq -s "[.[][] | select(.kind == \"tbf\") | .$1] | add"
}
# Jiffies of all processors: idle and all
machine() { awk '/^cpu / { print $5 + $6, $2 + $3 + $4 + $5 + $6 + $7 + $8 + $9 }' /proc/stat; }
# What stands in a field of the last event of a kind
field() { sed -n "s/^[0-9.]* \({\"event\":\"$2\".*\)/\1/p" "$1" | tail -n 1 | jq "$3"; }
# first, median and last of lines of numbers, as the simulator has them
ranks() { sort -n | awk '{ a[NR] = $1 } END { print a[1], a[int((NR + 1) / 2)], a[NR] }'; }
middle() { sort -n | awk '{ a[NR] = $1 } END { print (a[int((NR + 1) / 2)] + a[int(NR / 2) + 1]) / 2 }'; }

source=$scratch/source/payload.bin
mkdir "$scratch/source"
head -c "${size}M" /dev/urandom >"$source"
export XDG_CACHE_HOME=$scratch/cache HOME=$scratch    # no settings or hashes of whoever runs it
results=$scratch/results
: >"$results"

one_run() {
    local run=$1 dir=$scratch/run n pid start now waited complete behind
    rm -rf "$dir" && mkdir "$dir"

    # The seeder first: hashing the file is not part of the swarm.
    # Not by `at`: a function's pid would be a shell's.
    ip netns exec "$tag-0" "$bin" share "$source" --no-cache "${lanes[@]}" --listen 10.213.77.1:4000 --ticket-file "$dir/ticket" --json \
        > >(stamp "$dir/0.events") 2>"$dir/0.err" &
    pids+=($!)
    for waited in {1..300}; do if [[ -s $dir/ticket ]]; then break; fi; sleep 0.1; done
    [[ -s $dir/ticket ]] || { cat "$dir/0.err" >&2; fail "no ticket after 30 s"; }
    piece_size=$(field "$dir/0.events" ticket .piece_size)
    pieces=$(field "$dir/0.events" ticket .pieces)

    # All wait for someone to open the other end of `go`. `ip netns exec` and `exec` keep the pid.
    mkfifo "$dir/go"
    for n in $(seq 1 $last); do
        mkdir "$dir/$n"
        # shellcheck disable=SC2016 # the inner bash expands these
        ip netns exec "$tag-$n" bash -c ': <"$1"; shift; exec "$@"' - "$dir/go" \
            "$bin" get "@$dir/ticket" -o "$dir/$n" "${lanes[@]}" --listen "10.213.77.$((n + 1)):4000" --seed --json \
            > >(stamp "$dir/$n.events") 2>"$dir/$n.err" &
        pids+=($!)
    done
    sleep 2
    local out_before drops_before idle_before all_before idle all
    out_before=$(counted bytes) drops_before=$(counted drops)
    read -r idle_before all_before < <(machine)
    start=$EPOCHREALTIME
    exec {go}>"$dir/go"

    complete=0 behind=-
    while ((complete < last)); do
        sleep 0.5
        now=$EPOCHREALTIME
        if ((${now%.*} - ${start%.*} > timeout)); then echo "run $run: given up after $timeout s" >&2; break; fi
        # While it is under way: round trips on the peers' own connections, as TCP measured them,
        # and what the seeder has handed to TCP that is not with its receiver yet.
        if [[ ! -e $dir/rtt ]] && ((${now%.*} - ${start%.*} >= 6)); then
            connections=$(at 0 ss -tnH state established | wc -l)
            behind=$(at 0 ss -tnH state established | awk '{ s += $2 } END { printf "%.1f", s / 1048576 }')
            for n in 0 $((last / 2)) "$last"; do
                at "$n" ss -tinH state established
            done | grep -o ' rtt:[0-9.]*\| minrtt:[0-9.]*' >"$dir/rtt" || true
        fi
        complete=$(cat "$dir"/*.events | grep -c '{"event":"done"' || true)
    done
    read -r idle all < <(machine)
    local out drops
    out=$(($(counted bytes) - out_before)) drops=$(($(counted drops) - drops_before))
    exec {go}>&-
    end_processes
    sleep 0.2    # the last lines

    for n in $(seq 1 $last); do
        if ! cmp -s "$source" "$dir/$n/payload.bin"; then
            echo "run $run: the copy of peer $n is not right" >&2
            tail -n 3 "$dir/$n.err" >&2
            wrong=1
        fi
    done
    # Faults that the swarm got over still belong to the result.
    local faults
    faults=$(cat "$dir"/*.err | grep -c 'panicked at\| ERROR ' || true)
    if ((faults)); then
        echo "run $run: the peers' stderr tells of faults ($faults lines):" >&2
        cat "$dir"/*.err | grep -A 1 'panicked at\| ERROR ' | sort | uniq -c | sort -rn | head -n 6 >&2
    fi
    if ((complete < last)); then wrong=1; return 0; fi

    local first median latest begun sent received seeded share full vain idle_percent
    read -r first median latest < <(for n in $(seq 1 $last); do
        sed -n 's/^\([0-9.]*\) {"event":"done".*/\1/p' "$dir/$n.events"
    done | awk -v start="$start" '{ printf "%.3f\n", $1 - start }' | ranks)
    begun=$(for n in $(seq 1 $last); do
        sed -n 's/^\([0-9.]*\) {"event":"manifest".*/\1/p' "$dir/$n.events"
    done | awk -v start="$start" '{ printf "%.3f\n", $1 - start }' | middle)
    sent=$(for n in $(seq 0 $last); do field "$dir/$n.events" stopped .uploaded; done | awk '{ s += $1 } END { printf "%d", s }')
    received=$(for n in $(seq 1 $last); do field "$dir/$n.events" "done" .downloaded; done | awk '{ s += $1 } END { printf "%d", s }')
    seeded=$(calc %.3f "$(field "$dir/0.events" stopped .uploaded) / ($size * 1048576)")
    share=$(calc %.4f "$sent / $out")
    full=$(calc %.1f "100 * $out * 8 / ($rate * $peers * $latest)")
    idle_percent=$(calc %.0f "100 * ($idle - $idle_before) / ($all - $all_before)")
    vain=$(calc %.1f "100 * (1 - $last * $size * 1048576 / $received)")
    echo "$first $median $latest $seeded $share $full $vain $begun $idle_percent $drops $behind" >>"$results"
    printf '%-5s %8.2f %8.2f %8.2f %9s %9s %8s%% %7s%% %7.2f %6s%% %7s %7s\n' "$run" "$first" "$median" "$latest" \
        "$seeded" "$share" "$full" "$vain" "$begun" "$idle_percent" "$drops" "$behind"
    if [[ -s $dir/rtt ]]; then cat "$dir/rtt" >>"$scratch/rtt"; fi
}

echo "$peers processes (1 seeder), $size MiB, each sends $upload of frames$(if ((down)); then echo ", receives $download"; fi)"
echo "tbf burst $(burst "$rate") B, queue $queue; TCP: $control, send buffer up to $buffer KiB; $(nproc) cores, load $(cut -d' ' -f1-3 /proc/loadavg)"
if command -v ping >/dev/null; then
    echo "ping: $(at 1 ping -q -c 5 -i 0.2 10.213.77.1 | tail -n 1)"
fi
echo
printf '%-5s %8s %8s %8s %9s %9s %9s %8s %7s %7s %7s %7s\n' real 'first s' 'median s' 'last s' copies payload full vain begun idle drops behind
wrong=0 connections=-
for run in $(seq 1 "$runs"); do one_run "$run"; done
[[ -s $results ]] || { echo "no run ended" >&2; exit 1; }

# ---- the same, simulated ----

column() { awk -v c="$1" '{ print $c }' "$results" | middle; }
share=$(column 5)
# The simulator takes whole milliseconds; the way here is a fraction of one when no queue stands.
latency=1ms
simulated() { # bits per second up, and down (0: no bound), latency -> first median last copies vain bound
    local args=(--peers "$last" --seeders 1 --pieces "$pieces" --piece-size "$((piece_size / 1024))K"
        --upload "$(($1 / 1000))kbit" --latency "$3" --runs "$sim_runs" --json)
    if (($2)); then args+=(--download "$(($2 / 1000))kbit"); fi
    "$bin" simulate "${args[@]}" >"$scratch/simulated"
    local f
    for f in .first_seconds .median_seconds .last_seconds .seeder_copies '.waste * 100' .lower_bound_seconds; do
        jq "select(.event == \"simulated\") | $f" "$scratch/simulated" | middle
    done | paste -sd ' '
}
payload_rate=$(calc %.0f "$rate * $share") payload_down=$(calc %.0f "$down * $share")
read -r s_first s_median s_last s_copies s_vain s_bound < <(simulated "$rate" "$down" "$latency")
read -r p_first p_median p_last p_copies p_vain p_bound < <(simulated "$payload_rate" "$payload_down" "$latency")
read -r q_first q_median q_last q_copies q_vain q_bound < <(simulated "$payload_rate" "$payload_down" "$queue")
r_first=$(column 1) r_median=$(column 2) r_last=$(column 3) r_copies=$(column 4) r_vain=$(column 7)

echo
if [[ -s $scratch/rtt ]]; then
    echo "round trips by TCP, ms: least $(grep -o 'minrtt:.*' "$scratch/rtt" | cut -d: -f2 | middle)," \
        "under way $(grep -o ' rtt:.*' "$scratch/rtt" | cut -d: -f2 | middle) (medians of connections); connections of the seeder: $connections"
fi
echo "copies: what the seeder sent / size. payload: blocks sent / bytes through tbf. full: bytes through tbf until the"
echo "last was done / what all rates allow. vain: received twice. begun: start to manifest. drops: packets by tbf."
echo "behind: MiB that the seeder has handed to the kernel and that are not with a receiver, 6 s after the start."
echo
echo "simulated with $pieces pieces of $((piece_size / 1024)) KiB, $last peers, 1 seeder, latency $latency, $sim_runs seeds (medians):"
printf '%-34s %8s %9s %8s %8s %7s %7s %8s\n' '' 'first s' 'median s' 'last s' copies vain full 'bound s'
row() { printf '%-34s %8.2f %9.2f %8.2f %8.2f %6.1f%% %6.1f%% %8s\n' "$@"; }
# How full the ways out were till the last was done: rate, last, part received in vain
fullness() { calc %.2f "100 * $last * $size * 1048576 * 8 / (1 - $3 / 100) / ($1 * $peers * $2)"; }
row "real, medians of $(wc -l <"$results") runs" "$r_first" "$r_median" "$r_last" "$r_copies" "$r_vain" "$(column 6)" ''
row "simulated at the set rate" "$s_first" "$s_median" "$s_last" "$s_copies" "$s_vain" "$(fullness "$rate" "$s_last" "$s_vain")" "$(calc %.2f "$s_bound")"
row "simulated at the payload rate" "$p_first" "$p_median" "$p_last" "$p_copies" "$p_vain" "$(fullness "$payload_rate" "$p_last" "$p_vain")" "$(calc %.2f "$p_bound")"
row "with the queue of $queue" "$q_first" "$q_median" "$q_last" "$q_copies" "$q_vain" "$(fullness "$payload_rate" "$q_last" "$q_vain")" "$(calc %.2f "$q_bound")"
echo
echo "real : simulated                     median     last"
printf '%-34s %8.3f %8.3f\n' "at the set rate ($upload)" "$(calc %f "$r_median / $s_median")" "$(calc %f "$r_last / $s_last")"
printf '%-34s %8.3f %8.3f\n' "at the payload rate ($((payload_rate / 1000))kbit)" "$(calc %f "$r_median / $p_median")" "$(calc %f "$r_last / $p_last")"
printf '%-34s %8.3f %8.3f\n' "with the queue of $queue" "$(calc %f "$r_median / $q_median")" "$(calc %f "$r_last / $q_last")"
((wrong == 0)) || { echo "not every copy was complete and right" >&2; exit 1; }
