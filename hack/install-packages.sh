#!/usr/bin/env bash
# Installs the Debian packages of the programs that are named, if they are
# missing. Without root it says what is missing and goes on: what needs the
# programs says so itself.
#
#   hack/install-packages.sh mkfs.btrfs mkfs.xfs
set -euo pipefail

# An ordinary user's PATH does not have the directories of mkfs.
PATH=$PATH:/usr/sbin:/sbin

package_of() {
  case $1 in
    mkfs.btrfs | btrfs) echo btrfs-progs ;;
    mkfs.xfs | xfs_repair | xfs_db | xfs_io) echo xfsprogs ;;
    mkfs.ext4 | e2fsck | resize2fs | dumpe2fs | chattr) echo e2fsprogs ;;
    losetup | unshare | fstrim | findmnt) echo util-linux ;;
    mount) echo mount ;;
    fio) echo fio ;;
    mariadbd | mariadb-install-db) echo mariadb-server-core ;;
    mariadb) echo mariadb-client-core ;;
    sysbench) echo sysbench ;;
    gcc) echo gcc libc6-dev ;;
    containerd) echo containerd ;;
    runc) echo runc ;;
    /usr/lib/cni/bridge) echo containernetworking-plugins ;;
    busybox) echo busybox-static ;;
    ip) echo iproute2 ;;
    promtool) echo prometheus ;;
    git) echo git ca-certificates ;;
    *) echo "$0: no package is known for $1" >&2 && exit 2 ;;
  esac
}

# have PROGRAM. A busybox that is to run in an image of its own must be static.
have() {
  command -v "$1" >/dev/null || return 1
  [ "$1" != busybox ] || ! ldd "$(command -v busybox)" >/dev/null 2>&1
}

missing=()
for program in "$@"; do
  packages=$(package_of "$program")
  if ! have "$program"; then
    read -ra words <<<"$packages"
    missing+=("${words[@]}")
  fi
done
[ ${#missing[@]} -gt 0 ] || exit 0

mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
if ! command -v apt-get >/dev/null || [ "$(id -u)" -ne 0 ]; then
  echo "not installed: ${missing[*]} (as root on Debian: apt-get install ${missing[*]})" >&2
  exit 0
fi
echo "installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
install() { apt-get install --yes --quiet --quiet --no-install-recommends "${missing[@]}" >/dev/null; }
# The lists of a fresh machine are empty or old; those of a used one mostly do.
if ! install 2>/dev/null; then
  apt-get update --quiet --quiet
  install
fi
