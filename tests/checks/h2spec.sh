#!/usr/bin/env bash
# The HTTP/2 conformance run against the traffic port. h2spec and what it needs are fixed in tests/h2spec; it is built
# once into the cache folder.
. "$(dirname "$0")/suite.sh"
command -v go >/dev/null || cannot "needs Go to build h2spec"
export DORMOUSE_H2SPEC=$CACHE/tools/bin/h2spec
stamp=$(cat tests/h2spec/go.mod tests/h2spec/go.sum | sha256sum)
if [ ! -x "$DORMOUSE_H2SPEC" ] || [ "$(cat "$CACHE/tools/bin/.h2spec.stamp" 2>/dev/null)" != "$stamp" ]; then
  mkdir -p "$CACHE/tools/bin"
  (cd tests/h2spec && CGO_ENABLED=0 GOFLAGS='' go build -ldflags "-s -w" -o "$DORMOUSE_H2SPEC" github.com/summerwind/h2spec/cmd/h2spec)
  echo "$stamp" > "$CACHE/tools/bin/.h2spec.stamp"
fi
suite hostile --test-threads=1 conformance::
