#!/bin/sh
# Writes the image's Debian part, a root file system without apt and dpkg: base-layer.sh TAR ARCH SUITE [MIRROR].
# Packages are unpacked, not configured, so nothing of ARCH is run. With SOURCE_DATE_EPOCH set, the same packages give
# the same bytes.
set -eu

[ "$#" -ge 3 ] || { echo "usage: $0 TAR ARCH SUITE [MIRROR]" >&2; exit 2; }
tar=$1 arch=$2 suite=$3
shift 3
trap 'rm -f "$tar.whole"' EXIT

# busybox: a shell for the extension backend's commands, and cp, by which kube-flannel's manifests install the plugin.
mmdebstrap --quiet --aptopt='Acquire::Retries "5"' --variant=extract --format=tar --skip=output/dev --architectures="$arch" \
  --include=base-files,libc6,nftables,iptables,iproute2,busybox \
  --extract-hook="$(dirname "$0")/finish-root.sh" "$suite" "$tar.whole" "$@"

# Left out: what only people, compilers and dpkg read, and this machine's name.
mmtarfilter \
  --path-exclude='/usr/share/doc/*' --path-include='/usr/share/doc/*/copyright' \
  --path-exclude='/usr/share/man/*' --path-exclude='/usr/share/info/*' --path-exclude='/usr/share/locale/*' \
  --path-exclude='/usr/share/lintian/*' --path-exclude='/usr/share/bug/*' --path-exclude='/usr/share/perl5/*' \
  --path-exclude='/usr/share/bash-completion/*' --path-exclude='/usr/share/debconf/*' --path-exclude='/usr/include/*' \
  --path-exclude='/usr/lib/*/gconv/*' --path-exclude='/usr/sbin/dpkg-*' --path-exclude='/usr/bin/debconf*' \
  --path-exclude='/etc/apt/*' --path-exclude='/etc/dpkg/*' --path-exclude='/var/cache/*' --path-exclude='/var/lib/apt/*' \
  --path-exclude='/etc/hostname' --path-exclude='/etc/resolv.conf' < "$tar.whole" > "$tar"
