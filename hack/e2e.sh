#!/usr/bin/env bash
# Runs the tests on a real Kubernetes and writes what go test -json says about
# them, for test/summary. A cluster that runs already is used and left alone; else
# one is started, and removed at the end.
#
#   hack/e2e.sh | bin/summary
set -euo pipefail
cd "$(dirname "$0")/.."

mkdir -p bin/tools
go build -o bin/tools/cluster ./hack/cluster
if ! bin/tools/cluster status >/dev/null 2>&1; then
  trap 'bin/tools/cluster down >&2' EXIT
  bin/tools/cluster up >&2
fi
hack/test.sh e2e
