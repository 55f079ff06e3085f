#!/usr/bin/env bash
# Makes the Debian package of what was built.
#
#   configs/debian/build.sh [--bin-dir DIR] [--out DIR]
#
# --bin-dir: where understudyd and understudy are, default target/release.
# --out: where the package goes, default target/debian. Its name is printed.
# Needs dpkg-dev (part of build-essential). SOURCE_DATE_EPOCH is honoured; DEB_COMPRESSION=none is quick.
set -euo pipefail
export LC_ALL=C
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
HERE=configs/debian

bin_dir=target/release
out=target/debian
while [ $# -gt 0 ]; do
    case "$1" in
        --bin-dir) bin_dir="${2:?--bin-dir needs a directory}"; shift 2 ;;
        --out) out="${2:?--out needs a directory}"; shift 2 ;;
        *) sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 2 ;;
    esac
done

die() { printf 'build.sh: %s\n' "$*" >&2; exit 1; }
for name in understudyd understudy; do
    [ -x "$bin_dir/$name" ] || die "$name is not in $bin_dir: cargo build --release --locked"
done
command -v dpkg-shlibdeps >/dev/null || die "dpkg-shlibdeps is missing: apt-get install dpkg-dev"

version="$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)"
[ -n "$version" ] || die "Cargo.toml has no version"
architecture="$(dpkg --print-architecture)"
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
root="$scratch/debian/understudy"

put() { # MODE FROM TO
    install -D -m "$1" "$2" "$root$3"
}

doc=/usr/share/doc/understudy
install -d -m 0755 "$root" "$root/etc" "$root/usr"
install -d -m 0750 "$root/etc/understudy"
put 0755 "$bin_dir/understudyd" /usr/sbin/understudyd
put 0755 "$bin_dir/understudy" /usr/bin/understudy
strip --strip-unneeded "$root/usr/sbin/understudyd" "$root/usr/bin/understudy"
put 0644 configs/systemd/understudyd@.service /usr/lib/systemd/system/understudyd@.service
put 0755 configs/ocf/understudy /usr/lib/ocf/resource.d/understudy/node
for group in trio witness pair capture; do
    for file in configs/"$group"/*.toml; do
        put 0644 "$file" "$doc/examples/$group/$(basename "$file")"
    done
done
for file in configs/hooks/*.sh; do
    put 0755 "$file" "/usr/share/understudy/hooks/$(basename "$file")"
done
for file in configs/prometheus/* configs/grafana/*; do
    [ ! -f "$file" ] || put 0644 "$file" "$doc/examples/${file#configs/}"
done
put 0644 configs/systemd/understudy-hugepages.conf "$doc/examples/understudy-hugepages.conf"
for file in README.md OPERATING.md ARCHITECTURE.md SPECIFICATION.md configs/REFERENCE.md; do
    [ ! -e "$file" ] || put 0644 "$file" "$doc/$(basename "$file")"
done
put 0644 "$HERE/copyright" "$doc/copyright"
# What the command prints of itself.
for shell in bash zsh fish; do
    case "$shell" in
        bash) to=/usr/share/bash-completion/completions/understudy ;;
        zsh) to=/usr/share/zsh/vendor-completions/_understudy ;;
        fish) to=/usr/share/fish/vendor_completions.d/understudy.fish ;;
    esac
    "$bin_dir/understudy" completions "$shell" >"$scratch/completions"
    put 0644 "$scratch/completions" "$to"
done
"$bin_dir/understudy" man "$scratch/man" >/dev/null
for page in "$scratch"/man/*.1; do
    gzip -9n "$page"
    put 0644 "$page.gz" "/usr/share/man/man1/$(basename "$page").gz"
done

install -d -m 0755 "$root/DEBIAN"
for script in postinst prerm postrm; do
    install -m 0755 "$HERE/$script" "$root/DEBIAN/$script"
done
(cd "$root" && find . -type f ! -path './DEBIAN/*' -printf '%P\0' | sort -z |
    xargs -0 md5sum >DEBIAN/md5sums)

# Libraries by what the binaries link with; DPDK's drivers are loaded by name, not linked.
printf 'Source: understudy\n\nPackage: understudy\nArchitecture: any\n' >"$scratch/debian/control"
libraries="$(cd "$scratch" && dpkg-shlibdeps -O debian/understudy/usr/sbin/understudyd \
    debian/understudy/usr/bin/understudy 2>"$scratch/shlibs" | sed -n 's/^shlibs:Depends=//p')"
[ -n "$libraries" ] || { cat "$scratch/shlibs" >&2; die "dpkg-shlibdeps found no libraries"; }
size_kb="$(du -sk --exclude=DEBIAN "$root" | cut -f1)"
sed -e "s/@VERSION@/$version/" -e "s/@ARCHITECTURE@/$architecture/" \
    -e "s/@LIBRARIES@/$libraries/" -e "s/@SIZE@/$size_kb/" "$HERE/control.in" >"$root/DEBIAN/control"

mkdir -p "$out"
package="$out/understudy_${version}_${architecture}.deb"
dpkg-deb --root-owner-group "-Z${DEB_COMPRESSION:-xz}" --build "$root" "$package" >/dev/null
printf '%s\n' "$package"
