#!/bin/sh
# Makes sure that cargo 1.85 or later and a C linker are here: from PATH, else the distribution's rustup
# package, else rustup's own installer.
set -eu

new_enough() {
  command -v cargo >/dev/null || return 1
  version=$(cargo --version 2>/dev/null | sed -n 's/^cargo \([0-9]*\)\.\([0-9]*\).*/\1 \2/p')
  [ -n "$version" ] || return 1
  # shellcheck disable=SC2086 # two words on purpose
  set -- $version
  [ "$1" -gt 1 ] || [ "$2" -ge 85 ]
}

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

apt_install() {
  as_root apt-get update -qq
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
}

command -v cc >/dev/null || apt_install gcc libc6-dev
new_enough && exit 0
if [ -n "$(apt-cache policy rustup 2>/dev/null | sed -n 's/^ *Candidate: \([^(].*\)/\1/p')" ]; then
  apt_install rustup
  rustup default stable
else
  command -v curl >/dev/null || apt_install curl ca-certificates
  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal
fi
new_enough || { echo "cargo 1.85 or later is needed and could not be installed" >&2; exit 1; }
