#!/usr/bin/env bash
# Every Rust file as rustfmt writes it; every script at least readable for its interpreter.
. "$(dirname "$0")/lib.sh"
cargo fmt --all --check -- --color never
for script in test .ci/run tests/checks/*.sh tests/cluster/*.sh; do bash -n "$script"; done
! command -v gofmt >/dev/null || { unformatted=$(gofmt -l tests/cluster/kube); [ -z "$unformatted" ] || die "gofmt: $unformatted"; }
