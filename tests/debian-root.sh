# Sourced: a clean Debian 12 in a directory of its own, in which commands are run as on a machine.
#
#   make_root BASE    a copy of BASE, or what debootstrap makes if it is empty; $root, gone at exit
#   inside COMMAND    in it, with an environment of its own
#   MIRROR            where its packages come from

MIRROR="${MIRROR:-http://deb.debian.org/debian}"
scratch="$(mktemp -d)"
root="$scratch/root"

say() { printf '== %3s s: %s\n' "$SECONDS" "$*"; }
die() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; exit 1; }
inside() {
    chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/srv \
        DEBIAN_FRONTEND=noninteractive "$@"
}

remove_root() {
    ! mountpoint -q "$root" || umount --recursive --lazy "$root"
    # Never through a mount into the machine's own files.
    rm -rf --one-file-system "$scratch"
}

make_root() {
    say "a clean Debian 12"
    mkdir "$root"
    if [ -n "$1" ]; then
        cp -a "$1/." "$root"
    else
        debootstrap --variant=minbase bookworm "$root" "$MIRROR" >"$scratch/debootstrap" 2>&1 ||
            { tail "$scratch/debootstrap" >&2; die "debootstrap failed"; }
    fi
    # What every installed system has, and debootstrap alone does not write.
    printf 'deb %s bookworm-updates main\ndeb %s-security bookworm-security main\n' "$MIRROR" "$MIRROR" \
        >"$root/etc/apt/sources.list.d/updates.list"
    mount --bind "$root" "$root"
    mount --make-private "$root"
    mount -t proc proc "$root/proc"
    mount --rbind /sys "$root/sys" && mount --make-rslave "$root/sys"
    mount --rbind /dev "$root/dev" && mount --make-rslave "$root/dev"
    cp /etc/resolv.conf "$root/etc/resolv.conf"
    # Whom this machine trusts besides (a proxy, perhaps); ca-certificates takes them in when it is installed.
    mkdir -p "$root/usr/local/share/ca-certificates"
    cp -r /usr/local/share/ca-certificates/. "$root/usr/local/share/ca-certificates/"
    # No package starts its service.
    printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
    chmod 0755 "$root/usr/sbin/policy-rc.d"
}
