#!/usr/bin/env bash
# Assembles the root filesystem of the container image from the packages of
# Debian 12, on which this runs: the driver, the programs that it runs, the shared
# libraries that those need, and the licences of all of it. No shell, no package
# manager, nothing else.
#
#   hack/image-rootfs.sh DRIVER DIRECTORY
#
# Nothing is installed on this machine. Packages are kept in dist/debs.
set -euo pipefail
# The same files make the same image, whoever makes it.
export LC_ALL=C
umask 022
cd "$(dirname "$0")/.."
driver=$(realpath "$1")
root=$(realpath -m "$2")

# package:path of every program that the driver runs.
programs=(
  btrfs-progs:mkfs.btrfs
  e2fsprogs:mkfs.ext4
  e2fsprogs:e2fsck
  e2fsprogs:resize2fs
  xfsprogs:mkfs.xfs
  xfsprogs:xfs_repair
)

command -v apt-get >/dev/null || { echo "$0: the packages come from Debian: apt-get is not here" >&2; exit 1; }
debs=$PWD/dist/debs
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$debs" "$work/all"

# The packages with the programs and those that may have their libraries.
closure() {
  local packages
  mapfile -t packages < <(printf '%s\n' "${programs[@]%%:*}" | sort -u)
  printf '%s\n' "${packages[@]}"
  apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances "${packages[@]}" |
    grep -E '^(lib|gcc-)' || true
}

if ! apt-cache show xfsprogs >/dev/null 2>&1; then apt-get update --quiet --quiet; fi
mapfile -t packages < <(closure | sort -u)
wanted() { apt-get download --print-uris "${packages[@]}" | awk '{print $2}'; }
if ! (cd "$debs" && wanted | xargs -r ls >/dev/null 2>&1); then
  # A list that is older than the archive names packages that are gone.
  (cd "$debs" && apt-get download --quiet "${packages[@]}" >/dev/null 2>&1) || {
    apt-get update --quiet --quiet
    (cd "$debs" && apt-get download --quiet "${packages[@]}" >/dev/null)
  }
fi
wanted | sort >"$work/debs"
while read -r deb; do dpkg-deb -x "$debs/$deb" "$work/all"; done <"$work/debs"

rm -rf "$root"
mkdir -p "$root"/{bin,dev,etc,proc,run,sbin,sys,tmp,usr/share/doc,var/lib/holdfast,var/lib/kubelet,var/tmp}
chmod 1777 "$root/tmp" "$root/var/tmp"
install -m 755 "$driver" "$root/driver"

# locate NAME: the file of that name among the packages, below /.
locate() {
  local found
  found=$(cd "$work/all" && find sbin bin usr/sbin usr/bin -name "$1" 2>/dev/null | head -n 1)
  [ -n "$found" ] || { echo "$0: no package has $1" >&2; return 1; }
  echo "$found"
}

# needed FILE: the libraries that it needs, at the paths where the packages have
# them, asked of the packages' own loader.
loader=$(cd "$work/all" && find lib lib64 -name 'ld-linux*' -not -type d | sort | head -n 1)
libdirs=$(cd "$work/all" && find . -name '*.so.*' -printf "$work/all/%h\n" | sort -u | paste -sd:)
needed() {
  "$work/all/$loader" --library-path "$libdirs" --list "$work/all/$1" |
    sed -nE "s#.*=> $work/all/(\./)?([^ ]+) .*#\2#p" | grep -v /ld-linux
}

: >"$work/shipped"
for program in "${programs[@]}"; do
  path=$(locate "${program##*:}")
  echo "$path" >>"$work/shipped"
  needed "$path" >>"$work/shipped"
done
interpreter=$(cd "$work/all" && find lib64 lib -maxdepth 1 -name 'ld-linux*' 2>/dev/null | head -n 1 || true)
{
  echo "$interpreter"
  echo etc/mke2fs.conf
} >>"$work/shipped"

# Which package each file is from, for the list and the licences.
owner() {
  local deb real
  real=$(realpath -m --relative-to="$work/all" "$work/all/$1")
  while read -r deb; do
    if grep -qxE "\./($1|$real)" "$work/lists/$deb"; then echo "$deb"; fi
  done <"$work/debs"
}
mkdir "$work/lists"
while read -r deb; do
  dpkg-deb --fsys-tarfile "$debs/$deb" | tar -t >"$work/lists/$deb"
done <"$work/debs"

sort -u -o "$work/shipped" "$work/shipped"
: >"$work/owners"
while read -r path; do
  mkdir -p "$root/$(dirname "$path")"
  cp -L --preserve=mode "$work/all/$path" "$root/$path"
  owners=$(owner "$path")
  [ -n "$owners" ] || { echo "$0: no package owns $path" >&2; exit 1; }
  echo "$owners" >>"$work/owners"
done <"$work/shipped"

# What Debian calls the packages, so that a scanner or a person can look them up.
sort -u "$work/owners" | while read -r deb; do
  name=$(dpkg-deb --field "$debs/$deb" Package)
  dpkg-deb --show --showformat='${Package} ${Version} ${Architecture} ${source:Package} ${source:Version}\n' "$debs/$deb"
  mkdir -p "$root/usr/share/doc/$name"
  cp -L "$work/all/usr/share/doc/$name/copyright" "$root/usr/share/doc/$name/copyright"
done | sort >"$root/usr/share/doc/packages"
mkdir -p "$root/usr/share/doc/holdfast"
install -m 644 LICENSE "$root/usr/share/doc/holdfast/copyright"
go run ./hack/licenses -notice "$root/usr/share/doc/holdfast/THIRD_PARTY" >/dev/null

# The same where scanners look: a file for each package, as in other images that
# have no dpkg in them, and the name of the distribution.
mkdir -p "$root/var/lib/dpkg/status.d"
sort -u "$work/owners" | while read -r deb; do
  dpkg-deb --field "$debs/$deb" >"$root/var/lib/dpkg/status.d/$(dpkg-deb --field "$debs/$deb" Package)"
done
grep -E '^(ID|NAME|VERSION|VERSION_ID|VERSION_CODENAME|PRETTY_NAME)=' /etc/os-release >"$root/etc/os-release"

echo "$(du -sm --apparent-size "$root" | cut -f1) MiB in $root: $(du -m --apparent-size "$root/driver" | cut -f1) MiB driver, $(wc -l <"$root/usr/share/doc/packages") Debian packages"
