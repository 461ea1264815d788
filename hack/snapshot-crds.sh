#!/usr/bin/env bash
# Copies the snapshot CRDs, with their licence, from the Go module that go.mod
# names into the Helm chart; `make manifests` takes them to deploy/kustomize. With
# --check it changes nothing and ends with an error if they differ.
#
#   hack/snapshot-crds.sh [--check]
set -euo pipefail
cd "$(dirname "$0")/.."

module=github.com/kubernetes-csi/external-snapshotter/client/v8
crds=deploy/helm/holdfast/crds
# Those of group snapshots are left out: the driver has none, and both the sidecar
# and the controller are told so.
names=(volumesnapshotclasses volumesnapshotcontents volumesnapshots)

case "${1:-}" in
  "" | --check) ;;
  *) echo "usage: $0 [--check]" >&2; exit 2 ;;
esac

version=$(go list -m -f '{{.Version}}' "$module")
source=$(go mod download -json "$module@$version" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
[ -d "$source/config/crd" ] || { echo "$0: $module $version has no config/crd" >&2; exit 1; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for name in "${names[@]}"; do
  {
    echo "# From $module $version, config/crd."
    echo "# Copyright The Kubernetes Authors. Licensed under the Apache License 2.0: see LICENSE."
    cat "$source/config/crd/snapshot.storage.k8s.io_$name.yaml"
  } >"$work/$name.yaml"
done
cp "$source/LICENSE" "$work/LICENSE"
chmod -R u+w "$work"

if [ "${1:-}" = --check ]; then
  diff -ru "$crds" "$work" || { echo "$0: the CRDs are not those of $module $version: run $0" >&2; exit 1; }
  exit 0
fi
rm -rf "$crds"
mkdir -p "$crds"
cp "$work"/* "$crds"
