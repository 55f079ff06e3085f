#!/usr/bin/env bash
# Fetches the upstream source of a Debian package from the mirror that apt uses, verified by the
# suite's signed lists.
#
#   dpdk-build/source.sh PACKAGE SUITE DIR    DIR/PACKAGE_VERSION.orig.tar.* ; its name is printed
#
# Lists and files stay out of the system's own; nothing is installed.
set -euo pipefail
export LC_ALL=C

[ "$#" -eq 3 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 2; }
package="$1" suite="$2" into="$3"
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT

die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

log() {
    "$@" </dev/null >>"$scratch/log" 2>&1
}

mirror="$(apt-get indextargets --format '$(LABEL) $(REPO_URI)' 'Created-By: Packages' |
    sed -n 's/^Debian //p' | head -n 1)"
[ -n "$mirror" ] || die "apt knows no Debian mirror to fetch the source of $package from"
mkdir -p "$scratch/lists/partial" "$scratch/cache/archives/partial" "$scratch/source"
printf 'deb-src [signed-by=%s] %s %s main\n' "$keyring" "$mirror" "$suite" >"$scratch/sources.list"
# A mirror that was frozen is as good: its lists are signed all the same.
options=(-o Acquire::Check-Valid-Until=false -o "Dir::Etc::SourceList=$scratch/sources.list" -o Dir::Etc::SourceParts=/dev/null
    -o "Dir::State::Lists=$scratch/lists" -o "Dir::Cache=$scratch/cache")
# Its own user could not read the directory.
[ "$(id -u)" -ne 0 ] || options+=(-o APT::Sandbox::User=root)
log timeout 600 apt-get -q "${options[@]}" update || {
    tail -n 20 "$scratch/log" >&2
    die "apt-get update of $mirror $suite failed, its last lines are above"
}
cd "$scratch/source"
# Some mirrors lack Debian's own changes, which are not needed: what counts is checked below.
log timeout 600 apt-get -q "${options[@]}" source --download-only "$package" || true
apt-cache "${options[@]}" showsrc "$package" |
    sed -n '/^Checksums-Sha256:/,/^[^ ]/s/^ \([0-9a-f]\{64\}\) [0-9]* \([^ ]*\.orig\.tar\.[a-z0-9]*\)$/\1  \2/p' >sums
[ -s sums ] || die "apt's lists of $mirror $suite name no source of $package"
sha256sum --check --status --ignore-missing sums || {
    tail -n 20 "$scratch/log" >&2
    die "the source of $package could not be fetched whole from $mirror"
}
file=""
while read -r _ name; do [ ! -f "$name" ] || file="$name"; done <sums
cd - >/dev/null
mkdir -p "$into"
cp "$scratch/source/$file" "$into/"
printf '%s\n' "$into/$file"
