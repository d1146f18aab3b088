#!/bin/sh
# Boots systemd as PID 1 of private pid, mount, cgroup, uts and ipc namespaces, in the network namespace it is
# started in. Its root is an overlay of the machine's, so that nothing it writes reaches the machine.
#
#   systemd-boot.sh NAME DIRECTORY [FROM TO]...
#
# NAME becomes host name and cgroup; DIRECTORY is empty and private; FROM, a file or directory, appears as TO.
# Ends when systemd does; ends systemd on SIGTERM.
set -eu

boot() {
  umount "$directory/cgroup"
  mount -t tmpfs -o size=512m,mode=755 tmpfs "$directory"
  mkdir "$directory/upper" "$directory/work" "$directory/root"
  mount -t overlay -o "lowerdir=/,upperdir=$directory/upper,workdir=$directory/work" overlay "$directory/root"
  cd "$directory/root"

  mount -t proc proc proc
  mount -t sysfs sysfs sys
  mount -t cgroup2 cgroup2 sys/fs/cgroup
  mount -t tmpfs -o mode=755 tmpfs run
  mount -t tmpfs -o mode=1777 tmpfs tmp
  # Devices of its own: systemd writes to /dev/console where there is one.
  mount -t tmpfs -o mode=755 tmpfs dev
  mkdir dev/net dev/pts dev/shm
  mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
  mount -t tmpfs -o mode=1777 tmpfs dev/shm
  ln -s pts/ptmx dev/ptmx
  ln -s /proc/self/fd dev/fd
  for device in "null 1 3" "zero 1 5" "full 1 7" "random 1 8" "urandom 1 9" "tty 5 0"; do
    set -- $device "$@"
    mknod -m 666 "dev/$1" c "$2" "$3"
    shift 3
  done
  mknod -m 600 dev/net/tun c 10 200

  # Only what a test starts shall run: the machine's own units, mounts and generators are out of the picture.
  rm -rf etc/systemd/system etc/fstab lib/systemd/system/*.target.wants lib/systemd/system-generators
  rm -rf etc/flannel etc/cni var/lib/flannel-lite var/log/journal
  mkdir -p etc/systemd/system lib/systemd/system/sysinit.target.wants
  for unit in systemd-journald.socket systemd-journald-dev-log.socket systemd-journald.service; do
    ln -s "../$unit" lib/systemd/system/sysinit.target.wants/
  done
  # One that is new would count as a first boot, on which systemd enables units.
  tr -d - < proc/sys/kernel/random/uuid > etc/machine-id
  printf '%s\n' "$name" > etc/hostname
  # A lab has no name server: one that never answers would be waited for.
  printf '127.0.0.1 localhost\n127.0.1.1 %s\n' "$name" > etc/hosts
  rm -f etc/resolv.conf

  while [ $# -gt 0 ]; do
    mkdir -p "./$(dirname "$2")"
    if [ -d "$1" ]; then mkdir -p "./$2"; else : > "./$2"; fi
    mount --rbind "$1" "./$2"
    shift 2
  done

  pivot_root . mnt
  umount -l /mnt
  # `container` keeps it from what belongs to a machine: clock and swap.
  exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin container=test /lib/systemd/systemd --system --unit=basic.target
}

# Removes a cgroup with all below it, none of which holds a process any more.
remove_cgroup() {
  for tries in 1 2 3 4 5 6 7 8 9 10; do
    find "$1" -depth -type d -exec rmdir {} + 2> /dev/null && return
    sleep 0.1
  done
}

if [ "$1" = --inside ]; then
  shift
  name=$1 directory=$2
  shift 2
  boot "$@"
fi

name=$1 directory=$2
shift 2
mkdir "$directory/cgroup"
mount -t cgroup2 cgroup2 "$directory/cgroup"
# What a killed run left is empty: its processes ended with its lab.
for stale in "$directory"/cgroup/fl-*-*-*; do
  run=${stale%-*}
  [ -d "/proc/${run##*-}" ] || find "$stale" -depth -type d -exec rmdir {} + 2> /dev/null || :
done
cgroup=$directory/cgroup/$name
mkdir "$cgroup"

# The cgroup namespace begins where the process is that makes it.
sh -c 'echo $$ > "$1/cgroup.procs"; shift; exec "$@"' sh "$cgroup" \
  unshare --cgroup --pid --fork --kill-child --uts --ipc --mount sh "$0" --inside "$name" "$directory" "$@" &
child=$!
trap 'kill -KILL "$child"' TERM INT
status=0
wait "$child" || status=$?
wait "$child" 2> /dev/null || : # the first one ends at the signal too
remove_cgroup "$cgroup"
exit "$status"
