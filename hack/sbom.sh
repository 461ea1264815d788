#!/usr/bin/env bash
# Writes what is in the driver and in its image, as SPDX and as CycloneDX.
#
#   hack/sbom.sh SYFT BINARY IMAGE.tar DIRECTORY
#
# The image's list has the Debian packages too, which it names the way that
# scanners read (hack/image-rootfs.sh).
set -euo pipefail
cd "$(dirname "$0")/.."
syft=$1 binary=$2 image=$3 out=$4

# Nothing is asked of the network: no newer syft, no remote licences.
export SYFT_CHECK_FOR_APP_UPDATE=false
mkdir -p "$out"

# list NAME SOURCE WANTED...: each package that is wanted must be in the list.
list() {
  local name=$1 source=$2 wanted
  shift 2
  "$syft" scan --quiet "$source" --source-name holdfast \
    -o "spdx-json=$out/$name.spdx.json" -o "cyclonedx-json=$out/$name.cdx.json"
  for wanted in "$@"; do
    grep -q "\"name\": *\"$wanted\"" "$out/$name.spdx.json" || { echo "$out/$name.spdx.json does not have $wanted" >&2; return 1; }
  done
  echo "$out/$name.spdx.json, $out/$name.cdx.json: $(grep -o '"SPDXRef-Package-[^"]*"' "$out/$name.spdx.json" | sort -u | wc -l) packages"
}

list driver "file:$binary" google.golang.org/grpc stdlib
list holdfast-image "docker-archive:$image" google.golang.org/grpc btrfs-progs e2fsprogs xfsprogs libc6
