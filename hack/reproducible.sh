#!/usr/bin/env bash
# Builds the driver and its image twice and compares: in this tree, and from a copy
# of its files in another directory, with an empty build cache, another umask,
# another time zone, and other times on the files. What is downloaded (modules,
# Debian packages) is shared: both must build from the same.
#
#   hack/reproducible.sh
set -euo pipefail
cd "$(dirname "$0")/.."

version=$(git describe --tags --always --dirty 2>/dev/null || echo devel)
epoch=$(git log -1 --format=%ct 2>/dev/null || echo 0)
work=$(mktemp -d /var/tmp/reproducible-XXXXXX)
trap 'chmod -R u+w "$work" && rm -rf "$work"' EXIT
other=$work/a/directory/with/a/longer/name
mkdir -p "$other" dist/debs

what=(build)
results=(bin/driver)
if command -v apt-get >/dev/null; then
  what=(image)
  results+=(dist/holdfast-image.tar)
else
  echo "the image is made of Debian packages, and apt-get is not here: only the binary is compared"
fi

make --no-print-directory "${what[@]}" VERSION="$version" SOURCE_DATE_EPOCH="$epoch"

{ git ls-files -z --cached --others --exclude-standard 2>/dev/null || find . -type f -not -path './bin/*' -not -path './dist/*' -print0; } |
  xargs -0 -r ls -d 2>/dev/null | tar -c --files-from=- | tar -x -C "$other"
find "$other" -exec touch --date=2001-02-03 {} +
mkdir -p "$other/dist"
cp -a dist/debs "$other/dist/debs"
(
  cd "$other"
  umask 077
  export GOCACHE=$work/cache TZ=Pacific/Auckland LC_ALL=C.UTF-8
  make --no-print-directory "${what[@]}" VERSION="$version" SOURCE_DATE_EPOCH="$epoch"
)

differ=0
for f in "${results[@]}"; do
  a=$(sha256sum <"$f") b=$(sha256sum <"$other/$f")
  if [ "$a" = "$b" ]; then
    echo "$f: ${a%% *}, twice"
  else
    echo "$f: ${a%% *} here, ${b%% *} there"
    differ=1
  fi
done
exit $differ
