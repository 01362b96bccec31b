#!/usr/bin/env bash
# Clippy on every target of every crate, the suites included; a warning is an error.
. "$(dirname "$0")/lib.sh"
cargo clippy --locked --workspace --all-targets --features dormouse-tests/suites -- -D warnings
