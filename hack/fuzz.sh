#!/usr/bin/env bash
# Runs every fuzz target for FUZZTIME (10s unless set): go test takes one target
# at a time. Ends with status 1 if any found something; the input is then in
# testdata/fuzz of its package.
set -euo pipefail
cd "$(dirname "$0")/.."
export CGO_ENABLED=0

targets=$(go list -f '{{$p := .}}{{range .TestGoFiles}}{{$p.Dir}}/{{.}} {{$p.ImportPath}}
{{end}}{{range .XTestGoFiles}}{{$p.Dir}}/{{.}} {{$p.ImportPath}}
{{end}}' ./... | while read -r file package; do
  if [ -n "$file" ]; then sed -nE "s#^func (Fuzz[A-Za-z0-9_]+)\(.*#$package \1#p" "$file"; fi
done)
[ -n "$targets" ] || { echo "there is no fuzz target" >&2; exit 1; }

found=()
while read -r package target; do
  echo "== $package $target"
  go test -run '^$' -fuzz "^$target\$" -fuzztime "${FUZZTIME:-10s}" "$package" </dev/null || found+=("$package $target")
done <<<"$targets"
if [ ${#found[@]} -gt 0 ]; then
  printf 'found something: %s\n' "${found[@]}" >&2
  exit 1
fi
echo "$(wc -l <<<"$targets") fuzz targets ran for ${FUZZTIME:-10s} each and found nothing"
