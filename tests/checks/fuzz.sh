#!/usr/bin/env bash
# The usage API under schemathesis, a fuzzer that reads its OpenAPI description: no server error, answers as described.
# It is installed into the cache folder, once for each set of versions.
. "$(dirname "$0")/suite.sh"
PYTHON=(schemathesis==4.32.5 hypothesis==6.170.17 jsonschema_rs==0.60.3 hypothesis-graphql==0.13.5 requests==2.34.2)

need_packages python3=python3-venv
# Debian's python3 comes without it.
python3 -c 'import ensurepip' 2>/dev/null || need_packages /no/such/file=python3-venv
place=$CACHE/fuzz
wanted="$(python3 --version) ${PYTHON[*]}"
if [ "$(cat "$place/versions" 2>/dev/null)" != "$wanted" ]; then
  rm -rf "$place"
  mkdir -p "$place"
  python3 -m venv "$place/python"
  "$place/python/bin/pip" install --quiet --disable-pip-version-check "${PYTHON[@]}" ||
    cannot "needs the Python packages ${PYTHON[*]}, and pip could not get them"
  echo "$wanted" > "$place/versions"
fi
export DORMOUSE_SCHEMATHESIS=$place/python/bin/schemathesis
suite fuzz
