#!/usr/bin/env bash
# Runs upstream's storage tests on a real Kubernetes; its arguments are the flags of
# `external run` (test/e2e/external). A cluster that is there already gets the driver
# of this tree and is left alone; else one is started, and removed at the end.
#
#   hack/e2e-external.sh -focus 'External.Storage.*snapshottable'
set -euo pipefail
cd "$(dirname "$0")/.."

mkdir -p bin/tools
go build -o bin/tools/cluster ./hack/cluster
go build -o bin/tools/external ./test/e2e/external
if [ ! -e /var/lib/holdfast-cluster ]; then
  # On a machine that up refuses, down does nothing.
  trap 'bin/tools/cluster down' EXIT
fi
bin/tools/cluster up
bin/tools/external run "$@"
