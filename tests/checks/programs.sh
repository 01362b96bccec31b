#!/usr/bin/env bash
# Release programs, and archives of their images.
. "$(dirname "$0")/lib.sh"
cargo build --locked --release -p dormouse -p dormouse-controller -p dormouse-activator
# Static, alone in its image: a parked pod costs what this program does.
cargo rustc --locked --release -p dormouse-parker -- -C target-feature=+crt-static
mkdir -p "$IMAGES"
tests/cluster/images.sh build "$PROGRAMS" "$IMAGES"
ls -l "$PROGRAMS"/{dormouse,dormouse-controller,dormouse-activator,dormouse-parker} | awk '{ printf "%s %.1f MB\n", $NF, $5 / 1e6 }'
