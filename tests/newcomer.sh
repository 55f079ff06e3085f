#!/usr/bin/env bash
# A newcomer's path on a clean Debian 12, timed: from a clone to the demonstration, from a clone to the
# tests, from the package to a protected service. As root, by hand: it fetches and builds everything.
#
#   tests/newcomer.sh [--base DIR] [--out DIR] [demo] [test] [package]
#
# --base: a system made by debootstrap before; it is copied, not changed.
# --out: what each step printed, default target/newcomer; with its last lines and times in times.txt.
# Without names all three. What is committed is cloned, each time into a system of its own.
set -euo pipefail
export LC_ALL=C
cd "$(dirname "${BASH_SOURCE[0]}")/.."

. tests/debian-root.sh
base=""
out=target/newcomer
steps=()
while [ $# -gt 0 ]; do
    case "$1" in
        --base) base="${2:?--base needs a directory}"; shift 2 ;;
        --out) out="${2:?--out needs a directory}"; shift 2 ;;
        demo | test | package) steps+=("$1"); shift ;;
        *) sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 2 ;;
    esac
done
[ "${#steps[@]}" -gt 0 ] || steps=(demo test package)
[ "$(id -u)" -eq 0 ] || die "root is needed"
mkdir -p "$out"
trap remove_root EXIT

# What a newcomer has: a system, and a clone.
clone() {
    local bundle="$scratch/understudy.bundle"
    make_root "$base"
    inside apt-get -q update >"$scratch/apt" 2>&1 &&
        inside apt-get -q -y --no-install-recommends install git ca-certificates >>"$scratch/apt" 2>&1 ||
        { tail -n 20 "$scratch/apt" >&2; die "apt-get failed"; }
    git bundle create -q "$bundle" HEAD
    cp "$bundle" "$root/srv/"
    inside git clone -q /srv/understudy.bundle /srv/understudy
}

# NAME COMMAND...: in the clone.
timed() {
    local name="$1" begun=$SECONDS code=0
    shift
    say "$name: $*"
    inside sh -c 'cd /srv/understudy && exec "$@"' sh "$@" >"$out/$name.log" 2>&1 </dev/null || code=$?
    tail -n 12 "$out/$name.log"
    printf '%s: %s: exit code %s after %s s\n' "$name" "$*" "$code" "$((SECONDS - begun))" |
        tee -a "$out/times.txt"
    [ "$code" -eq 0 ] || die "$name failed: $out/$name.log"
}

for step in "${steps[@]}"; do
    case "$step" in
        demo) clone; timed demo ./demo.sh ;;
        test) clone; timed test ./test.sh ;;
        package)
            # Built here; what is timed begins with the finished package.
            cargo build --locked --release -p understudy-daemon -p understudy-cli -p understudy-lab --bins
            begun=$SECONDS
            tests/package.sh --base "$base" | tee "$out/package.log"
            printf 'package: from an empty system to its removal: %s s\n' "$((SECONDS - begun))" |
                tee -a "$out/times.txt"
            ;;
    esac
    ! mountpoint -q "$root" || umount --recursive --lazy "$root"
    rm -rf --one-file-system "$root"
done
