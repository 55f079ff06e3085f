#!/usr/bin/env bash
# Installs CRIU 4 or later, with which applications are checkpointed: as Debian's package where that
# is new enough (Debian 13), else built from the source that Debian's unstable has.
#
#   dpdk-build/criu.sh          install it if it is missing (as root, or with sudo)
#   dpdk-build/criu.sh --check  only say whether it is there; exit 1 if it is not
set -euo pipefail
export LC_ALL=C
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

MAJOR_MIN=4
TARGET=/usr/local/sbin/criu
BUILD_PACKAGES=(
    build-essential pkg-config xz-utils
    libprotobuf-c-dev libprotobuf-dev protobuf-c-compiler protobuf-compiler
    libnl-3-dev libcap-dev libnet1-dev libbsd-dev libgnutls28-dev libnftables-dev
    uuid-dev libaio-dev python3-minimal
)

scratch=""

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

is_new_enough() {
    local version
    version="$(criu --version 2>/dev/null | sed -n 's/^Version: *\([0-9]*\).*/\1/p')" || return 1
    [ -n "$version" ] && [ "$version" -ge "$MAJOR_MIN" ]
}

# Its last lines are shown if it fails.
quietly() {
    "$@" </dev/null >>"$scratch/log" 2>&1 && return
    tail -n 20 "$scratch/log" >&2
    die "$1 failed, its last lines are above"
}

apt_get() {
    quietly as_root env DEBIAN_FRONTEND=noninteractive timeout 1800 \
        apt-get -q -y -o DPkg::Lock::Timeout=300 "$@"
}

packaged_major() {
    apt-cache policy criu 2>/dev/null | sed -n 's/^ *Candidate: *\([0-9]\+\:\)\?\([0-9]*\).*/\2/p'
}

build() {
    local source
    source="$("$(dirname "${BASH_SOURCE[0]}")/source.sh" criu sid "$scratch")"
    mkdir "$scratch/build"
    tar -C "$scratch/build" --strip-components=1 -xf "$source"
    quietly make -C "$scratch/build" -j "$(nproc)" criu
    as_root install -D -m 0755 "$scratch/build/criu/criu" "$TARGET"
}

main() {
    case "${1-}" in
        "" | --check) ;;
        *) sed -n '2,6s/^# \{0,1\}//p' "$0"; exit 2 ;;
    esac
    ! is_new_enough || exit 0
    if [ "${1-}" = --check ]; then
        say "missing: CRIU $MAJOR_MIN or later"
        exit 1
    fi
    [ "$(id -u)" -eq 0 ] || command -v sudo >/dev/null ||
        die "installing CRIU needs root and there is no sudo: run this script as root"
    scratch="$(mktemp -d)"
    trap 'rm -rf "$scratch"' EXIT
    apt_get update
    if [ "$(packaged_major)" -ge "$MAJOR_MIN" ] 2>/dev/null; then
        apt_get install --no-install-recommends criu
    else
        apt_get install --no-install-recommends "${BUILD_PACKAGES[@]}"
        build
    fi
    hash -r
    is_new_enough || die "criu is still not of version $MAJOR_MIN: see what 'criu --version' says"
    say "installed CRIU $(criu --version | sed -n 's/^Version: *//p')"
}

main "$@"
