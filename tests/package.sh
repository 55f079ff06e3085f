#!/usr/bin/env bash
# The Debian package on a clean Debian 12: installed, edited from the examples, checked, started by the
# unit's own command line as three nodes in network namespaces, its primary killed under a client,
# upgraded, removed without a trace. As root, by hand: it fetches a whole system, and takes minutes.
#
#   tests/package.sh [--bin-dir DIR] [--base DIR]
#
# --bin-dir: understudyd, understudy and lab-topology, default target/release.
# --base: a system made by debootstrap before; it is copied, not changed.
set -euo pipefail
export LC_ALL=C
cd "$(dirname "${BASH_SOURCE[0]}")/.."

. tests/debian-root.sh
SERVICE=10.77.0.100
bin_dir=target/release
base=""
while [ $# -gt 0 ]; do
    case "$1" in
        --bin-dir) bin_dir="${2:?--bin-dir needs a directory}"; shift 2 ;;
        --base) base="${2-}"; shift 2 ;;
        *) sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 2 ;;
    esac
done

lab_pid=""
node_pids=()
declare -A netns

on() { # NODE COMMAND...: in the root, in the node's network namespace
    local node="$1"
    shift
    nsenter --net="${netns[$node]}" chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"
}

clean_up() {
    local pid
    for pid in "${node_pids[@]}"; do kill -9 "$pid" 2>/dev/null || true; done
    [ -z "$lab_pid" ] || { kill "$lab_pid" 2>/dev/null && wait "$lab_pid" 2>/dev/null; } || true
    remove_root
}
trap clean_up EXIT

[ "$(id -u)" -eq 0 ] || die "root is needed"
say "package of $bin_dir"
package="$(configs/debian/build.sh --bin-dir "$bin_dir" --out "$scratch")"
dpkg-deb --info "$package" | sed -n '/ Depends/p;/ Installed-Size/p'

make_root "$base"
cp "$package" "$root/srv/understudy.deb"

say "install"
{ inside apt-get -q update && inside apt-get -q -y --no-install-recommends install \
    /srv/understudy.deb redis-server; } >"$scratch/apt" 2>&1 || { tail -n 20 "$scratch/apt" >&2; die "apt-get failed"; }
inside understudyd --version
[ "$(stat -c %a "$root/etc/understudy")" = 750 ] || die "/etc/understudy is open to others"

say "three nodes from the examples"
: >"$scratch/lab"
"$bin_dir/lab-topology" --seconds 900 >>"$scratch/lab" 2>&1 &
lab_pid=$!
for _ in $(seq 100); do
    [ "$(wc -l <"$scratch/lab")" -lt 5 ] || break
    sleep 0.1
done
netns[client]="$(sed -n 's/^client //p' "$scratch/lab")"
for node in a b c; do netns[$node]="$(sed -n "s/^node $node //p" "$scratch/lab")"; done
[ -n "${netns[c]}" ] || { cat "$scratch/lab" >&2; die "no lab"; }
inside understudy key generate /etc/understudy/cluster.key
for node in a b c; do
    # What an operator edits: the interfaces of this machine.
    sed -e '/^\[ports.client\]/,/^\[ports.replica\]/s/iface=[a-z0-9-]*/iface=us-cl/' \
        -e '/^\[ports.replica\]/,/^\[/s/iface=[a-z0-9-]*/iface=us-rp/' \
        "$root/usr/share/doc/understudy/examples/trio/$node.toml" >"$root/etc/understudy/$node.toml"
    on "$node" understudy check "/etc/understudy/$node.toml" >"$scratch/check" 2>&1 ||
        { cat "$scratch/check" >&2; die "check of $node"; }
    on "$node" understudy -c "/etc/understudy/$node.toml" doctor >"$scratch/doctor" 2>&1 ||
        { cat "$scratch/doctor" >&2; die "doctor of $node"; }
    if [ "$node" = a ]; then
        printf '# understudy check /etc/understudy/a.toml\n'
        cat "$scratch/check"
        printf '# understudy -c /etc/understudy/a.toml doctor\n'
        cat "$scratch/doctor"
    fi
done

exec_start() { # NODE: the unit's own command line
    sed -n "s/^ExecStart=//p" "$root/usr/lib/systemd/system/understudyd@.service" | sed "s/%i/$1/g"
}
start() {
    local command
    read -ra command <<<"$(exec_start "$1")"
    on "$1" "${command[@]}" >>"$scratch/$1.log" 2>&1 &
    node_pids+=("$!")
}
field() { # NODE NAME
    inside understudy -c "/etc/understudy/$1.toml" -j status 2>/dev/null |
        grep -o "\"$2\":[a-z0-9\"]*" | head -n 1 | cut -d : -f 2 | tr -d '"'
}
wait_ready() {
    local node
    for node in "$@"; do
        for _ in $(seq 300); do
            [ "$(field "$node" ready)" != true ] || break
            sleep 0.1
        done
        [ "$(field "$node" ready)" = true ] ||
            { tail -n 5 "$scratch/$node.log" >&2; die "$node is not ready"; }
    done
}
for node in a b c; do start "$node"; done
wait_ready a b c
primary="$(field a primary)"
say "ready, the primary is $primary"
inside understudy -c /etc/understudy/a.toml wait --protected
printf '# understudy -c /etc/understudy/a.toml status\n'
inside understudy -c /etc/understudy/a.toml status

say "its death under a client"
# With a command line, redis-cli asks for nothing else (COMMAND DOCS has another order in each redis).
on client redis-cli -h "$SERVICE" -r 300 -i 0.01 INCR n >"$scratch/replies" 2>&1 &
client_pid=$!
port() { nsenter --net="${netns[client]}" ss -Htn dst "$SERVICE" | awk '{print $4}'; }
sleep 1
port_before="$(port)"
app="$(field "$primary" app_pid)"
daemon="$(field "$primary" pid)"
kill -9 "$daemon" "$app"
sleep 1
[ -n "$port_before" ] || die "there was no connection"
[ "$(port)" = "$port_before" ] || die "the connection is another one"
wait "$client_pid" || die "the client failed: $(tail -n 1 "$scratch/replies")"
seq 300 | cmp - "$scratch/replies" || die "the replies are not 1 to 300"
survivors=()
for node in a b c; do [ "$node" = "$primary" ] || survivors+=("$node"); done
new_primary="$(field "${survivors[0]}" primary)"
say "300 replies in order on one connection, $new_primary took over"

say "upgrade while it serves"
pid="$(field "$new_primary" pid)"
inside dpkg -i /srv/understudy.deb >"$scratch/dpkg" 2>&1 || { cat "$scratch/dpkg" >&2; die "upgrade"; }
[ "$(field "$new_primary" pid)" = "$pid" ] || die "an upgrade has ended a node"
# It starts itself anew to become a replica, and is still the old program.
inside understudy -c "/etc/understudy/$new_primary.toml" switchover >/dev/null
wait_ready "${survivors[@]}"
[ "$(field "$new_primary" pid)" = "$pid" ] || die "an upgraded node did not start itself anew"
for node in "${survivors[@]}"; do kill "$(field "$node" pid)"; done
for node in "${survivors[@]}"; do
    for _ in $(seq 100); do [ -n "$(field "$node" pid)" ] || break; sleep 0.1; done
    [ -z "$(field "$node" pid)" ] || die "$node did not end"
done

say "remove"
inside apt-get -q -y purge understudy >"$scratch/apt" 2>&1 || { tail "$scratch/apt" >&2; die "purge"; }
rm "$root/srv/understudy.deb"
left="$(find "$root" -xdev \( -name '*understudy*' -o -path '*/understudy/*' \) -printf '%P\n')"
[ -z "$left" ] || { printf '%s\n' "$left" >&2; die "the above was left behind"; }
say "passed"
