#!/usr/bin/env bash
# Compares what the driver calls with the Go vulnerability database, which
# GOVULNDB may name (https:// or file://; https://vuln.go.dev unless it does).
# A database that cannot be reached is a skip, status 77, and not a pass.
#
#   hack/vulncheck.sh GOVULNCHECK
set -euo pipefail
cd "$(dirname "$0")/.."
govulncheck=$1
database=${GOVULNDB:-https://vuln.go.dev}

# It says the age of the database with its version, if it can.
if ! said=$(timeout 60 "$govulncheck" -db "$database" -version 2>&1) || [[ $said != *"DB updated"* ]]; then
  echo "vulncheck: skipped: database not reachable: $database ($(tail -n 1 <<<"$said"))"
  exit 77
fi
grep -E '^DB' <<<"$said"
CGO_ENABLED=0 "$govulncheck" -db "$database" ./cmd/driver
