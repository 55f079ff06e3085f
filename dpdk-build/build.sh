#!/usr/bin/env bash
# Builds DPDK for this machine's own CPU, as static libraries with the drivers that are wanted; Debian's is
# for any x86-64 CPU, and shared. Optional: everything works with Debian's.
#
#   dpdk-build/build.sh [PREFIX]   default target/dpdk; prints what to set to build and measure with it
#
# UNDERSTUDY_DPDK_DRIVERS: which drivers, as DPDK's enable_drivers; the default is below.
# The source is that of this Debian's own package. As root, or with sudo, where build tools are missing.
set -euo pipefail
export LC_ALL=C

PACKAGES=(meson ninja-build python3-pyelftools pkg-config build-essential xz-utils
    libelf-dev libpcap-dev libnuma-dev libbpf-dev libxdp-dev zlib1g-dev)
# What the nodes are made of, and the cards of common servers and clouds.
DRIVERS=bus/auxiliary,bus/pci,bus/vdev,bus/vmbus,mempool/ring,common/iavf,net/af_packet,net/af_xdp,net/memif,net/null,net/pcap
DRIVERS+=,net/ring,net/tap,net/virtio,net/vhost,net/vmxnet3,net/netvsc,net/ena,net/gve,net/bnxt,net/e1000,net/igc
DRIVERS+=,net/ixgbe,net/i40e,net/ice,net/iavf,common/mlx5,net/mlx5

cd "$(dirname "${BASH_SOURCE[0]}")/.."
scratch=""

say() { printf 'dpdk: %s\n' "$*" >&2; }
die() { printf 'dpdk: %s\n' "$*" >&2; exit 1; }

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

# Its last lines are shown if it fails.
quietly() {
    "$@" </dev/null >>"$scratch/log" 2>&1 && return
    tail -n 20 "$scratch/log" >&2
    die "$1 failed, its last lines are above"
}

packages() {
    local wanted=() package
    for package in "${PACKAGES[@]}"; do
        [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || wanted+=("$package")
    done
    [ "${#wanted[@]}" -gt 0 ] || return 0
    [ "$(id -u)" -eq 0 ] || command -v sudo >/dev/null || die "install these first: ${wanted[*]}"
    quietly as_root apt-get -q -y -o DPkg::Lock::Timeout=300 update
    quietly as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get -q -y -o DPkg::Lock::Timeout=300 install --no-install-recommends "${wanted[@]}"
}

build() {
    local prefix="$1" suite source
    suite="$(. /etc/os-release && echo "$VERSION_CODENAME")"
    source="$(dpdk-build/source.sh dpdk "$suite" "$scratch")"
    mkdir "$scratch/dpdk"
    tar -C "$scratch/dpdk" --strip-components=1 -xf "$source"
    say "building $(basename "$source") for this CPU"
    quietly meson setup "$scratch/build" "$scratch/dpdk" --prefix="$prefix" --buildtype=release \
        -Dplatform=native -Ddefault_library=static -Dtests=false -Denable_docs=false \
        -Denable_drivers="${UNDERSTUDY_DPDK_DRIVERS:-$DRIVERS}"
    quietly ninja -C "$scratch/build"
    quietly ninja -C "$scratch/build" install
}

case "${1-}" in -*) sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 2 ;; esac
prefix="$(realpath -m "${1:-target/dpdk}")"
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
packages
build "$prefix"
config="$(dirname "$(find "$prefix" -name libdpdk.pc)")"
say "version $(PKG_CONFIG_PATH="$config" pkg-config --modversion libdpdk) is in $prefix"
printf 'export UNDERSTUDY_DPDK=static PKG_CONFIG_PATH=%s PATH=%s:$PATH\n' "$config" "$prefix/bin"
