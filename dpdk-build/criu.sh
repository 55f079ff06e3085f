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

# The source's lists and files stay out of the system's own.
fetch_source() {
    local mirror keyring=/usr/share/keyrings/debian-archive-keyring.gpg options
    mirror="$(apt-get indextargets --format '$(LABEL) $(REPO_URI)' 'Created-By: Packages' |
        sed -n 's/^Debian //p' | head -n 1)"
    [ -n "$mirror" ] || die "apt knows no Debian mirror: build CRIU $MAJOR_MIN or later by hand (criu.org)"
    mkdir -p "$scratch/lists/partial" "$scratch/cache/archives/partial" "$scratch/source"
    chmod -R a+rX "$scratch"
    printf 'deb-src [signed-by=%s] %s sid main\n' "$keyring" "$mirror" >"$scratch/sources.list"
    options=(-o "Dir::Etc::SourceList=$scratch/sources.list" -o Dir::Etc::SourceParts=/dev/null
        -o "Dir::State::Lists=$scratch/lists" -o "Dir::Cache=$scratch/cache" -o APT::Sandbox::User=root)
    quietly timeout 600 apt-get -q "${options[@]}" update
    # Some mirrors lack Debian's own changes, which are not needed: what counts is checked below.
    (cd "$scratch/source" && timeout 600 apt-get -q "${options[@]}" source --download-only criu) \
        </dev/null >>"$scratch/log" 2>&1 || true
    apt-cache "${options[@]}" showsrc criu |
        sed -n '/^Checksums-Sha256:/,/^[^ ]/s/^ \([0-9a-f]\{64\}\) [0-9]* \(criu_.*\.orig\.tar\.xz\)$/\1  \2/p' \
            >"$scratch/source/sums"
    [ -s "$scratch/source/sums" ] || die "apt's lists of $mirror name no source of CRIU"
    (cd "$scratch/source" && sha256sum --check --status sums) || {
        tail -n 20 "$scratch/log" >&2
        die "the source of CRIU could not be fetched whole from $mirror"
    }
}

build() {
    mkdir "$scratch/build"
    tar -C "$scratch/build" --strip-components=1 -xf "$scratch"/source/criu_*.orig.tar.xz
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
        fetch_source
        build
    fi
    hash -r
    is_new_enough || die "criu is still not of version $MAJOR_MIN: see what 'criu --version' says"
    say "installed CRIU $(criu --version | sed -n 's/^Version: *//p')"
}

main "$@"
