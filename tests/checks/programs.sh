#!/usr/bin/env bash
# Release programs, and archives of their images.
. "$(dirname "$0")/lib.sh"
cargo build --locked --release -p dormouse -p dormouse-controller -p dormouse-activator -p dormouse-parker
mkdir -p "$IMAGES"
tests/cluster/images.sh build "$PROGRAMS" "$IMAGES"
ls -l "$PROGRAMS"/{dormouse,dormouse-controller,dormouse-activator,dormouse-parker} | awk '{ printf "%s %.1f MB\n", $NF, $5 / 1e6 }'
