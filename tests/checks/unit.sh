#!/usr/bin/env bash
# Unit, property and in-process tests of every crate. Each prints its count; this adds them up.
. "$(dirname "$0")/lib.sh"
cargo test --locked --workspace 2>&1 |
  awk '{ print } /^test result: ok/ { n += $4; left += $8 } END { printf "%d tests passed, %d left out\n", n, left }'
