#!/usr/bin/env bash
# Checks what a machine can see in the tree: formatting, vet, the linter, the
# documents against the code, deploy/kustomize against the chart, go.mod, and that the
# binary is static. Goes through all of it before it fails.
#
#   hack/verify.sh LINTER BINARY
set -uo pipefail
cd "$(dirname "$0")/.." || exit
linter=$1 binary=$2
failed=()

# check NAME COMMAND...
check() {
  local name=$1
  shift
  echo "-- $name"
  "$@" || failed+=("$name")
}

sources() { git ls-files -z --cached --others --exclude-standard -- "$@" 2>/dev/null || find . -name "$1" -print0; }

formatted() {
  local files
  files=$(sources '*.go' | xargs -0 -r ls -d 2>/dev/null | xargs -r gofmt -l)
  [ -z "$files" ] || { echo "gofmt would change:" && echo "$files" && return 1; }
}

# The linter has rules, and nobody is excused from them.
no_exceptions() {
  ! sources '*.go' | xargs -0 -r grep -nE '//(nolint|lint:ignore)|revive:disable' /dev/null
}

static() {
  local said
  said=$(LC_ALL=C ldd "$binary" 2>&1) && { echo "$binary is linked dynamically:" && echo "$said" && return 1; }
  [[ $said == *"not a dynamic executable"* ]] || { echo "$binary: $said" && return 1; }
}

check "formatting" formatted
check "go vet" go vet ./...
check "go vet, as built to be crashed" go vet -tags failpoint ./...
check "linter" "$linter" run --timeout 20m
check "linter without exceptions" no_exceptions
check "documents against the code" env CGO_ENABLED=0 go test -count=1 ./test/docs
check "manifests against the chart" go run ./hack/manifests --check
check "go.mod" go mod tidy -diff
check "static binary" static

if [ ${#failed[@]} -gt 0 ]; then
  printf 'verify: %s: not well\n' "${failed[@]}" >&2
  exit 1
fi
echo "verify: all is well"
