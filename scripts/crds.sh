#!/usr/bin/env bash
# Writes the chart's CRD files from the Rust types. Run it after a change of core/src/function*, warm_pool.rs or budget.rs; the test
# controller/tests/crd.rs fails until then.
set -euo pipefail
cd "$(dirname "$0")/.."
new=$(mktemp); trap 'rm -f "$new"' EXIT
for kind in budgets functions warmpools; do
  file=charts/dormouse/files/$kind.dormouse.dev.yaml
  cargo run --quiet --package dormouse-controller --bin dormouse-controller -- crd "$kind" > "$new"
  cat "$new" > "$file" # in place, so that a failed build leaves the old file
  echo "$file is written" >&2
done
