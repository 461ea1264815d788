#!/usr/bin/env bash
# Runs the tests on a real Kubernetes and writes what go test -json says about
# them, for test/summary. A cluster that is there already gets the driver of this
# tree and is left alone; else one is started, and removed at the end.
#
#   hack/e2e.sh | bin/summary
set -euo pipefail
cd "$(dirname "$0")/.."

mkdir -p bin/tools
go build -o bin/tools/cluster ./hack/cluster
if [ ! -e /var/lib/holdfast-cluster ]; then
  # On a machine that up refuses, down does nothing.
  trap 'bin/tools/cluster down >&2' EXIT
fi
# Before there are tests whose time counts. Those that are chosen build it themselves,
# if they need it.
if [ -z "${E2E_ARGS:-}" ] && ! bin/tools/cluster vault >&2; then
  echo "summary: exit 1"
  exit 1
fi
if ! bin/tools/cluster up >&2; then
  echo "summary: exit 1"
  exit 1
fi
hack/test.sh e2e
