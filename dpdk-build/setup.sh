#!/usr/bin/env bash
# Sets a machine up to build, test and run Understudy: Debian packages, Rust, CRIU, huge pages.
#
#   dpdk-build/setup.sh          install and reserve what is missing (as root, or with sudo)
#   dpdk-build/setup.sh --perf   also what perf.sh compares with
#   dpdk-build/setup.sh --check  say what is missing, change nothing, exit 1 if anything is
#
# UNDERSTUDY_HUGEPAGES: pages of 2 MB to have at least, default 512; 0 leaves them alone.
# For Debian 12 and later. May be run any number of times. Huge pages last until the next boot.
set -euo pipefail
export LC_ALL=C
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin:${CARGO_HOME:-${HOME:-}/.cargo}/bin"

PACKAGES=(
    libdpdk-dev dpdk dpdk-dev                    # the data plane; dpdk-testpmd, dpdk-dumpcap
    clang libclang-dev                           # bindgen; the BPF program
    libbpf-dev libelf-dev zlib1g-dev linux-libc-dev
    libpcap-dev                                  # filters of captures
    pkg-config build-essential
    redis-server redis-tools                     # what the demo and the lab protect
    etcd-server etcd-client                      # the arbiter of two nodes in the tests
    nginx postgresql bird2                       # what else the lab protects
    iproute2 ethtool tcpdump procps util-linux   # what the lab is built with
    tshark tcpreplay                             # who reads captures, and what sends the lab's mix
    valgrind                                     # counts instructions per packet
    jq prometheus chromium tmux                  # who reads what operators are shown
)
PERF_PACKAGES=(
    iperf3 netsniff-ng                           # goodput; who else records a link
    keepalived                                   # what else moves a service's address
)
# Of 1.x: the workspace's rust-version.
RUST_MIN="$(sed -n 's/^rust-version = "1\.\([0-9]*\).*/\1/p' "$(dirname "${BASH_SOURCE[0]}")/../Cargo.toml")"
PAGES="${UNDERSTUDY_HUGEPAGES:-512}"
MOUNT=/dev/hugepages
POLICY=/usr/sbin/policy-rc.d

check_only=0
missing=0
scratch=""
policy_is_ours=0

say() { printf 'setup: %s\n' "$*"; }
lack() { say "missing: $*"; missing=1; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

need_root() {
    [ "$(id -u)" -eq 0 ] && return
    command -v sudo >/dev/null || die "$1 needs root and there is no sudo: run this script as root"
}

clean_up() {
    [ "$policy_is_ours" -eq 0 ] || as_root rm -f "$POLICY"
    [ -z "$scratch" ] || rm -rf "$scratch"
}

is_installed() {
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

apt_get() {
    as_root env DEBIAN_FRONTEND=noninteractive timeout 1800 \
        apt-get -q -y -o DPkg::Lock::Timeout=300 "$@" </dev/null >>"$scratch/apt" 2>&1 && return
    tail -n 20 "$scratch/apt" >&2
    die "apt-get $1 failed, its last lines are above"
}

# No package may start its service: the lab runs its own.
forbid_services() {
    [ ! -e "$POLICY" ] || return 0
    printf '#!/bin/sh\nexit 101\n' >"$scratch/policy"
    policy_is_ours=1
    as_root install -m 0755 "$scratch/policy" "$POLICY"
}

allow_services() {
    [ "$policy_is_ours" -eq 1 ] || return 0
    as_root rm -f "$POLICY"
    policy_is_ours=0
}

update_lists() {
    need_root "installing packages"
    [ -z "$scratch" ] || return 0
    scratch="$(mktemp -d)"
    apt_get update
}

install_packages() {
    update_lists
    forbid_services
    apt_get install --no-install-recommends "$@"
    allow_services
    say "installed $*"
}

packages() {
    local wanted=() package
    command -v dpkg-query >/dev/null || die "this is not Debian (no dpkg): install these by hand: ${PACKAGES[*]}"
    for package in "${PACKAGES[@]}"; do
        is_installed "$package" || wanted+=("$package")
    done
    [ "${#wanted[@]}" -gt 0 ] || return 0
    if [ "$check_only" -eq 1 ]; then
        lack "packages ${wanted[*]}"
        return
    fi
    install_packages "${wanted[@]}"
    for package in redis-server etcd-server:etcd nginx postgresql bird2:bird keepalived prometheus; do
        case " ${wanted[*]} " in *" ${package%%:*} "*) silence "${package#*:}" ;; esac
    done
}

# Only after this script installed it: a service that was here before is somebody's.
silence() {
    [ -d /run/systemd/system ] || return 0
    as_root systemctl disable --now "$1.service" >/dev/null 2>&1 ||
        die "cannot stop the $1 that apt enabled: systemctl disable --now $1"
    say "disabled the system's $1 service"
}

# What Debian 12 gives newer compilers as, for its browsers' sake.
RUST_WEB=(rustc-web cargo-web rustfmt-web rust-web-clippy)

has_rust_web() {
    local version
    version="$(apt-cache policy rustc-web | sed -n 's/^ *Candidate: 1\.\([0-9]*\).*/\1/p')"
    [ "${version:-0}" -ge "$RUST_MIN" ]
}

rust_is_new_enough() {
    local version
    version="$(rustc --version 2>/dev/null)" && cargo --version >/dev/null 2>&1 || return 1
    [[ "$version" =~ ^rustc\ ([0-9]+)\.([0-9]+) ]] || return 1
    [ "${BASH_REMATCH[1]}" -gt 1 ] || [ "${BASH_REMATCH[2]}" -ge "$RUST_MIN" ]
}

rust() {
    ! rust_is_new_enough || return 0
    if [ "$check_only" -eq 1 ]; then
        lack "Rust 1.$RUST_MIN or later"
        return
    fi
    if ! command -v rustup >/dev/null; then
        update_lists
        if has_rust_web; then
            install_packages "${RUST_WEB[@]}"
            hash -r
            rust_is_new_enough ||
                die "rustc is still older than 1.$RUST_MIN: see which one 'command -v rustc' finds"
            return
        fi
        apt-cache policy rustup | grep -q 'Candidate: [0-9]' ||
            die "Rust 1.$RUST_MIN or later is needed; apt knows neither rustup nor a new enough rustc-web, which Debian 12 has in bookworm-security: add that suite, or install Rust from rustup.rs, then run this again"
        install_packages rustup
        hash -r
    fi
    { rustup update --no-self-update stable && rustup default stable; } </dev/null >/dev/null 2>&1 ||
        die "rustup could not install the stable toolchain: run 'rustup default stable' and see why"
    hash -r
    rust_is_new_enough ||
        die "rustc is still older than 1.$RUST_MIN: see which one 'command -v rustc' finds"
    say "installed $(rustc --version)"
}

# Its own script says how.
checkpoints() {
    local script
    script="$(dirname "${BASH_SOURCE[0]}")/criu.sh"
    if [ "$check_only" -eq 1 ]; then
        "$script" --check || missing=1
    else
        "$script"
    fi
}

# A public mix of captures, with which tcpdump tests itself: what the lab replays.
captures() {
    local root into source suite
    root="$(dirname "${BASH_SOURCE[0]}")"
    into="$root/../target/public-captures"
    [ ! -d "$into" ] || return 0
    if [ "$check_only" -eq 1 ]; then
        lack "the captures that tcpdump tests itself with, in target/public-captures"
        return
    fi
    update_lists
    suite="$(. /etc/os-release && echo "$VERSION_CODENAME")"
    source="$("$root/source.sh" tcpdump "$suite" "$scratch")"
    mkdir -p "$into.new"
    tar -C "$into.new" --strip-components=2 --wildcards -xf "$source" 'tcpdump-*/tests/*.pcap'
    mv "$into.new" "$into"
    say "fetched the captures that tcpdump tests itself with"
}

pages_now() { cat /proc/sys/vm/nr_hugepages; }

reserve_pages() {
    # The kernel gives what it can find in one piece: let it tidy up first if it must.
    as_root sysctl -q -w "vm.nr_hugepages=$PAGES" >/dev/null 2>&1 || true
    if [ "$(pages_now)" -lt "$PAGES" ]; then
        as_root sysctl -q -w vm.compact_memory=1 >/dev/null 2>&1 || true
        as_root sysctl -q -w "vm.nr_hugepages=$PAGES" >/dev/null 2>&1 || true
    fi
}

huge_pages() {
    [ "$PAGES" -gt 0 ] || return 0
    grep -q '^Hugepagesize: *2048 kB' /proc/meminfo ||
        die "this kernel's huge pages are not of 2 MB: boot with default_hugepagesz=2M"
    if [ "$(pages_now)" -lt "$PAGES" ]; then
        if [ "$check_only" -eq 1 ]; then
            lack "huge pages: $(pages_now) of $PAGES are reserved"
        else
            need_root "reserving huge pages"
            reserve_pages
            [ "$(pages_now)" -ge "$PAGES" ] ||
                die "the kernel gave $(pages_now) huge pages of $PAGES: free some memory, or ask for fewer with UNDERSTUDY_HUGEPAGES"
            say "reserved $(pages_now) huge pages of 2 MB"
        fi
    fi
    mount_huge_pages
}

mount_huge_pages() {
    ! grep -q " $MOUNT hugetlbfs " /proc/mounts || return 0
    if [ "$check_only" -eq 1 ]; then
        lack "hugetlbfs at $MOUNT"
        return
    fi
    need_root "mounting hugetlbfs"
    as_root mkdir -p "$MOUNT"
    as_root mount -t hugetlbfs -o pagesize=2M hugetlbfs "$MOUNT" ||
        die "cannot mount hugetlbfs at $MOUNT"
    say "mounted hugetlbfs at $MOUNT"
}

# Not to be installed: only another kernel has it.
kernel() {
    local wanted=bpf_sk_assign_tcp_reqsk types=/sys/kernel/btf/vmlinux
    ! grep -aqs "$wanted" "$types" || return 0
    lack "the kernel function $wanted in $types: this kernel cannot adopt connections, so the code builds" \
        "and its unit tests run, but understudyd does not start here (Linux 6.9 or later with CONFIG_DEBUG_INFO_BTF)"
}

main() {
    local option
    for option in "$@"; do
        case "$option" in
            --check) check_only=1 ;;
            --perf) PACKAGES+=("${PERF_PACKAGES[@]}") ;;
            *) sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 2 ;;
        esac
    done
    [[ "$PAGES" =~ ^[0-9]+$ ]] || die "UNDERSTUDY_HUGEPAGES is not a number: $PAGES"
    trap clean_up EXIT
    packages
    rust
    checkpoints
    captures
    huge_pages
    kernel
    if [ "$missing" -eq 0 ]; then
        say "this machine is ready"
    elif [ "$check_only" -eq 1 ]; then
        exit 1
    fi
}

main "$@"
