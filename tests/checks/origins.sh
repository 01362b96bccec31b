#!/usr/bin/env bash
# Real servers (Node, gunicorn, uvicorn, nginx) and real clients (curl, ab, wrk, ws, websockets, grpcio) around the activator.
# What is not a Debian package is installed into the cache folder, once for each set of versions.
. "$(dirname "$0")/suite.sh"
PYTHON=(gunicorn==27.0.1 uvicorn==0.54.0 websockets==17.4 grpcio==1.85.3)
NODE=(ws@8.23.0)

need_packages node=nodejs nginx=nginx-light curl=curl ab=apache2-utils wrk=wrk npm=npm python3=python3-venv
# Debian's python3 comes without it.
python3 -c 'import ensurepip' 2>/dev/null || need_packages /no/such/file=python3-venv
export DORMOUSE_ORIGINS_DIR=$CACHE/origins
wanted="$(python3 --version) ${PYTHON[*]} ${NODE[*]}"
if [ "$(cat "$DORMOUSE_ORIGINS_DIR/versions" 2>/dev/null)" != "$wanted" ]; then
  rm -rf "$DORMOUSE_ORIGINS_DIR"
  mkdir -p "$DORMOUSE_ORIGINS_DIR/node"
  python3 -m venv "$DORMOUSE_ORIGINS_DIR/python"
  "$DORMOUSE_ORIGINS_DIR/python/bin/pip" install --quiet --disable-pip-version-check "${PYTHON[@]}"
  npm install --silent --no-audit --no-fund --prefix "$DORMOUSE_ORIGINS_DIR/node" "${NODE[@]}"
  echo "$wanted" > "$DORMOUSE_ORIGINS_DIR/versions"
fi
suite origins
