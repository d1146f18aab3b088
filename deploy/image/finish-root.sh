#!/bin/sh
# Makes Debian packages that were unpacked below the directory $1 a root file system: what their scripts would have done,
# as far as it matters here.
set -eu
cd "$1"

# By this scanners know the packages, as in other images without dpkg.
mkdir -p var/lib/dpkg/status.d
for deb in var/cache/apt/archives/*.deb; do
  dpkg-deb --field "$deb" > "var/lib/dpkg/status.d/$(dpkg-deb --field "$deb" Package)"
done

for name in iptables ip6tables; do
  for action in "" -save -restore; do ln -s "$name-nft$action" "usr/sbin/$name$action"; done
done
for applet in sh cat cp echo env grep ls ps sleep; do ln -s /bin/busybox "bin/$applet"; done
for directory in run lock; do
  rmdir "var/$directory"
  ln -s "/run" "var/$directory"
done

echo 'root:x:0:0:root:/root:/bin/sh' > etc/passwd
echo 'root:x:0:' > etc/group
echo 'hosts: files dns' > etc/nsswitch.conf
