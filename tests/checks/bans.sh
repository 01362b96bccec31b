#!/usr/bin/env bash
# Crates, licences and sources that may be in the tree (deny.toml says which, and why).
# cargo-deny is built once into the cache folder, unoptimised: it runs for a second and compiles in two minutes that way.
. "$(dirname "$0")/lib.sh"
VERSION=0.20.2
deny=$CACHE/tools/bin/cargo-deny
if [ "$("$deny" --version 2>/dev/null)" != "cargo-deny $VERSION" ]; then
  CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_LTO=false CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
    CARGO_TARGET_DIR=$CACHE/tools/build cargo install --locked --force --root "$CACHE/tools" "cargo-deny@$VERSION"
  rm -rf "$CACHE/tools/build"
fi
"$deny" --locked --workspace check bans licenses sources
