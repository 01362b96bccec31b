#!/usr/bin/env bash
# Packs the command line as a plugin of kubectl for krew: an archive for each platform, and the manifest with their sums.
#
#   scripts/krew.sh OUT VERSION PLATFORM=PROGRAM...
#
# A platform is OS/ARCH as krew names it (linux/amd64, darwin/arm64), its program the built `dormouse`. OUT then holds
# kubectl-dormouse_vVERSION_OS_ARCH.tar.gz (the program as `kubectl-dormouse`, and LICENSE) and dormouse.yaml, which is what goes
# to the index. The same programs give the same archives, byte by byte.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
die() { echo "krew: $*" >&2; exit 2; }

[ $# -ge 3 ] || die "usage: scripts/krew.sh OUT VERSION PLATFORM=PROGRAM..."
out=$1 version=$2
shift 2
[[ $version =~ ^[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?$ ]] || die "$version is no version: write it as 1.2.3"
[[ $(tar --version 2>/dev/null) == *GNU* ]] || die "needs GNU tar: others write archives that differ from time to time"
sum() { sha256sum "$1" | cut -d' ' -f1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$out"

sed -e '/^#/d' -e "s/%VERSION%/$version/" "$here/krew.yaml" > "$work/dormouse.yaml"
for pair in "$@"; do
  platform=${pair%%=*} program=${pair#*=}
  [[ $pair == *=* && $platform =~ ^(linux|darwin)/(amd64|arm64)$ ]] || die "$pair: write OS/ARCH=PROGRAM, with linux or darwin and amd64 or arm64"
  [ -f "$program" ] || die "there is no program $program"
  os=${platform%/*} arch=${platform#*/}
  archive=kubectl-dormouse_v${version}_${os}_$arch.tar.gz
  mkdir -p "$work/$os-$arch"
  install -m 755 "$program" "$work/$os-$arch/kubectl-dormouse"
  install -m 644 "$here/../LICENSE" "$work/$os-$arch/LICENSE"
  # No times, no owners, no name in the head of gzip.
  touch -d '2000-01-01T00:00:00Z' "$work/$os-$arch"/*
  (cd "$work/$os-$arch" && tar -cf - --format ustar --owner 0 --group 0 --numeric-owner LICENSE kubectl-dormouse) | gzip -9n > "$out/$archive"
  cat >> "$work/dormouse.yaml" <<T
    - selector:
        matchLabels: {os: $os, arch: $arch}
      uri: https://github.com/dormouse-dev/dormouse/releases/download/v$version/$archive
      sha256: $(sum "$out/$archive")
      bin: kubectl-dormouse
      files:
        - {from: kubectl-dormouse, to: .}
        - {from: LICENSE, to: .}
T
done
mv "$work/dormouse.yaml" "$out/dormouse.yaml"
