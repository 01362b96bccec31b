#!/usr/bin/env bash
# Release programs, static (musl), and archives of their images. Where musl cannot be had, the suites that need no image
# still get programs: ordinary release ones.
. "$(dirname "$0")/lib.sh"
crates=(-p dormouse -p dormouse-controller -p dormouse-activator)

if reason=$(need_packages musl-gcc=musl-tools 2>&1) &&
  { rustup target list --installed 2>/dev/null | grep -qx "$TRIPLE" || rustup target add "$TRIPLE"; }; then
  # musl-gcc only compiles C; it must not link: what it links static-pie dies at its first instruction. Rust's own
  # start-up objects and the ordinary cc link well.
  export "CC_${TRIPLE//-/_}=musl-gcc"
  cargo build --locked --release --target "$TRIPLE" "${crates[@]}"
  mkdir -p "$IMAGES"
  tests/cluster/images.sh build "$PROGRAMS" "$IMAGES"
  ls -l "$PROGRAMS"/{dormouse,dormouse-controller,dormouse-activator} | awk '{ printf "%s %.1f MB\n", $NF, $5 / 1e6 }'
else
  echo "no static programs (no image, no cluster): ${reason:-rustup could not add $TRIPLE}"
  rm -rf "$IMAGES"
  cargo build --locked --release "${crates[@]}"
fi
