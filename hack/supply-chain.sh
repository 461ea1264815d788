#!/usr/bin/env bash
# Runs checks and counts them. A check that ends with status 77 was skipped, and has
# said why. The last line, which goes to SUMMARY too, counts.
#
#   hack/supply-chain.sh SUMMARY "COMMAND ARGUMENT..."...
set -uo pipefail
cd "$(dirname "$0")/.." || exit
summary=$1
shift

passed=0 failed=0 skipped=0
for check in "$@"; do
  echo "-- $check"
  read -ra command <<<"$check"
  "${command[@]}"
  case $? in
    0) passed=$((passed + 1)) ;;
    77) skipped=$((skipped + 1)) ;;
    *)
      echo "$check: not well" >&2
      failed=$((failed + 1))
      ;;
  esac
done
mkdir -p "$(dirname "$summary")"
echo "$passed passed, $failed failed, $skipped skipped" | tee "$summary"
[ $failed -eq 0 ]
