#!/usr/bin/env bash
# Runs the tests and writes what go test -json says about them to standard
# output, for test/summary, with a line of its own around each run.
#
#   hack/test.sh unit|race|root|e2e|sanity|fault... | bin/summary
#
# With HOLDFAST_RUN_AGAIN=1 a test that fails is run twice more, alone, and counts as
# passed if it passes both times; the summary names it. It is for CI, where one of
# thousands of tests that met a busy machine would hide what all the others say.
set -euo pipefail
cd "$(dirname "$0")/.."

# Packages of this module whose tests import any of the packages given.
importing() {
  local want
  want=$(printf '%s\n' "$@")
  go list -f '{{$p := .ImportPath}}{{range .TestImports}}{{$p}} {{.}}
{{end}}{{range .XTestImports}}{{$p}} {{.}}
{{end}}' ./... | while read -r package import; do
    if grep -qxF "$import" <<<"$want"; then echo "$package"; fi
  done | sort -u
}

module=$(go list -m)
status=0
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# run NAME ENV... -- ARGUMENTS of go test.
run() {
  local name=$1 rc=0
  local settings=()
  shift
  while [ "$1" != -- ]; do
    settings+=("$1")
    shift
  done
  shift
  echo "summary: pass $name"
  if [ -z "${HOLDFAST_RUN_AGAIN:-}" ]; then
    env "${settings[@]}" go test -json "$@" || rc=$?
    echo "summary: exit $rc"
  else
    local events=$scratch/events
    env "${settings[@]}" go test -json "$@" | tee "$events" || rc=$?
    echo "summary: exit $rc"
    if [ $rc -ne 0 ] && again "$events" "$@"; then rc=0; fi
  fi
  [ $rc -eq 0 ] || status=1
}

# again EVENTS ARGUMENTS: runs the tests again that failed, where that is sensible, and
# succeeds if they explain why the run failed and all of them pass.
again() {
  local events=$1 flags=() failures rc=0 line
  shift
  for arg in "$@"; do
    case $arg in
      ./* | "$module"/*) ;;
      *) flags+=("$arg") ;;
    esac
  done
  mapfile -t failures < <(bin/summary -again <"$events")
  [ ${#failures[@]} -gt 0 ] || return 1
  for line in "${failures[@]}"; do
    echo "summary: again $line"
    local one=0
    env "${settings[@]}" go test -json "${flags[@]}" -run "^${line#* }\$" -count=2 -failfast "${line% *}" || one=$?
    echo "summary: exit $one"
    [ $one -eq 0 ] || rc=1
  done
  return $rc
}

race() {
  if ! command -v gcc >/dev/null; then
    echo "summary: skip race detector: it needs a C compiler (gcc)"
    return
  fi
  run "race detector" CGO_ENABLED=1 -- -race -timeout 30m ./pkg/...
}

root() {
  local packages
  mapfile -t packages < <(importing "$module/test/roottest")
  # One package at a time: a mount namespace that is copied while a test runs
  # pins that test's loop devices.
  run "real loop devices and filesystems" CGO_ENABLED=0 HOLDFAST_ROOT_TESTS=1 -- -p 1 -count=1 -timeout 50m "${packages[@]}"
}

for pass in "$@"; do
  case $pass in
    unit)
      # Those of test/e2e need a cluster: a pass of their own.
      mapfile -t packages < <(go list ./... | grep -vx "$module/test/e2e")
      run "unit tests" CGO_ENABLED=0 -- -timeout 20m "${packages[@]}"
      ;;
    race) race ;;
    root) root ;;
    e2e)
      run "real Kubernetes" CGO_ENABLED=0 HOLDFAST_E2E=1 -- -count=1 -timeout 60m ${E2E_ARGS:-} ./test/e2e/...
      # Needs no cluster, but the Vault that is built for the tests on one.
      [ -n "${E2E_ARGS:-}" ] || run "a real Vault" CGO_ENABLED=0 HOLDFAST_ROOT_TESTS=1 -- -count=1 -timeout 10m -run Vault ./test/sealed
      ;;
    *) run "test/$pass" CGO_ENABLED=0 HOLDFAST_ROOT_TESTS=1 -- -p 1 -count=1 -timeout 40m "./test/$pass/..." ;;
  esac
done
exit $status
