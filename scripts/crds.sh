#!/usr/bin/env bash
# Writes the chart's CRD file from the Rust types. Run it after a change of core/src/function*; the test
# controller/tests/crd.rs fails until then.
set -euo pipefail
cd "$(dirname "$0")/.."
file=charts/dormouse/files/functions.dormouse.dev.yaml
new=$(mktemp); trap 'rm -f "$new"' EXIT
cargo run --quiet --package dormouse-controller --bin dormouse-controller -- crd > "$new"
cat "$new" > "$file" # in place, so that a failed build leaves the old file
echo "$file is written" >&2
