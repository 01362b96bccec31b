#!/usr/bin/env bash
# Images without Docker: OCI archives written by oci.py, imported into the cluster's containerd.
#   images.sh base               pause (every pod needs it) and, where busybox-static is installed, localhost/busybox:1
#   images.sh build FOLDER [OUT] archives of our own images from FOLDER/{dormouse,dormouse-controller,dormouse-activator,dormouse-parker}
#                                (DORMOUSE_BIN_DIR of ./test); also for `kind load image-archive FILE`
#                                and of the language runtimes (runtimes/), from Debian's nodejs and python3 where they are installed
#   images.sh examples OUT       archives of the functions of examples/ that have a Dockerfile, with Debian's packages in place of pip's
#   images.sh load [OUT]         imports the archives of a folder into the running cluster
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
. "$HERE/env.sh"
VERSION=${DORMOUSE_VERSION:-0.1.0}
NOBODY=65532:65532 # what distroless images call nonroot; a number, so that runAsNonRoot can be checked

import() { CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS=1 inside "$KIT/ctr" -a "$SOCKET" -n k8s.io images import "$1" >/dev/null; }

# image OUT.tar NAME:TAG FILE PATH USER ENTRYPOINT...: an image of one static file.
image() {
  local out=$1 name=$2 file=$3 path=$4 user=$5 root; shift 5
  root=$(mktemp -d)
  mkdir -p "$root$(dirname "$path")"
  cp "$file" "$root$path"; chmod 755 "$root$path"
  python3 "$HERE/oci.py" "$out" "$name" "$root" "$user" "$@"
  rm -r "$root"
}

# ours OUT.tar NAME:TAG PROGRAM [ARGUMENT...]: an image of one of our programs, with the libraries that it needs.
ours() {
  local out=$1 name=$2 program=$3 root; shift 3
  [ -x "$program" ] || die "$program is missing: build the programs first (./test does)"
  root=$(mktemp -d)
  "$HERE/../../scripts/image-root.sh" "$program" "$root"
  python3 "$HERE/oci.py" "$out" "$name" "$root" "$NOBODY" "/$(basename "$program")" "$@"
  rm -r "$root"
}

# is_recent PROGRAM LANGUAGE: whether a runtime can run on this interpreter (as tests/checks/runtimes.sh has it).
is_recent() {
  case $2 in
    nodejs) "$1" -e 'process.exit(Number(process.versions.node.split(".")[0]) >= 18 ? 0 : 1)' ;;
    python) "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ;;
  esac
}

# libraries ROOT FILE...: what these shared objects are linked with.
libraries() {
  local root=$1 needed; shift
  ldd "$@" | awk '/=> \// { print $3 }' | sort -u | while read -r needed; do
    mkdir -p "$root$(dirname "$needed")"
    cp -L "$needed" "$root$needed"
  done
}

# runtime_root ROOT PROGRAM LANGUAGE FILE...: makes ROOT the root of a language runtime's image.
runtime_root() {
  local root=$1 program=$2 language=$3 library; shift 3
  "$HERE/../../scripts/image-root.sh" "$program" "$root"
  mkdir -p "$root"/{app,opt/dormouse,tmp}
  chmod 1777 "$root/tmp"
  tar -C "$HERE/../../runtimes/$language" --exclude=__pycache__ -cf - "$@" | tar -C "$root/opt/dormouse" -xf -
  # Python's own modules, and what those in C are linked with.
  if [ "$language" = python ]; then
    library=$("$program" -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')
    mkdir -p "$root$library"
    tar -C "$library" --exclude=./test --exclude='./config-*' --exclude=./idlelib -cf - . | tar -C "$root$library" -xf -
    libraries "$root" "$library"/lib-dynload/*.so
  fi
  # Debian's Node reads some of its own modules from here.
  [ ! -d /usr/share/nodejs ] || [ "$language" != nodejs ] || { mkdir -p "$root/usr/share"; cp -rL /usr/share/nodejs "$root/usr/share/"; }
}

# runtime OUT.tar NAME:TAG PROGRAM LANGUAGE FILE...: an image of a language runtime: the interpreter that is installed here,
# its libraries, and these files of runtimes/LANGUAGE, the first of which starts it. No image without such an interpreter.
runtime() {
  local out=$1 name=$2 program language=$4 root; shift 2
  program=$(readlink -f "$1"); shift 2
  rm -f "$out"
  [ -x "$program" ] || { say "no image $name: no $program is installed"; return 0; }
  is_recent "$program" "$language" || { say "no image $name: $("$program" --version) is too old"; return 0; }
  root=$(mktemp -d)
  runtime_root "$root" "$program" "$language" "$@"
  python3 "$HERE/oci.py" "$out" "$name" "$root" "$NOBODY" "/$(basename "$program")" "/opt/dormouse/$1"
  rm -r "$root"
}

# examples OUT: as their Dockerfiles have it: the Python runtime, packages, and the folder but for what is no code.
examples() {
  local out=$1 program packages=/usr/lib/python3/dist-packages name folder root shared
  program=$(readlink -f /usr/bin/python3)
  mkdir -p "$out"
  root=$(mktemp -d)
  runtime_root "$root" "$program" python main.py dormouse
  mkdir -p "$root$packages"
  for name in psycopg2 redis PIL async_timeout deprecated wrapt packaging; do
    [ ! -d "$packages/$name" ] || cp -rL "$packages/$name" "$root$packages/"
  done
  mapfile -t shared < <(find "$root$packages" -name '*.so')
  libraries "$root" "${shared[@]}"
  for folder in "$HERE"/../../examples/*/Dockerfile; do
    folder=${folder%/Dockerfile}
    name=$(basename "$folder")
    rm -rf "$root/app"; mkdir "$root/app"
    cp "$folder"/* "$root/app/"
    rm -f "$root"/app/{*.yaml,*.yml,README.md,Dockerfile,*.log}
    python3 "$HERE/oci.py" "$out/$name.tar" "dormouse/$name:$VERSION" "$root" "$NOBODY" "/$(basename "$program")" /opt/dormouse/main.py
  done
  rm -r "$root"
}

base() {
  image "$DIR/pause.tar" localhost/pause:1 "$KIT/pause" /pause "$NOBODY" /pause
  import "$DIR/pause.tar"
  [ -x /bin/busybox ] || return 0
  image "$DIR/busybox.tar" localhost/busybox:1 /bin/busybox /bin/busybox "$NOBODY" /bin/busybox
  import "$DIR/busybox.tar"
}

build() {
  local from=$1 out=$2
  mkdir -p "$out"
  ours "$out/controller.tar" "dormouse/controller:$VERSION" "$from/dormouse-controller"
  ours "$out/activator.tar" "dormouse/activator:$VERSION" "$from/dormouse-activator"
  ours "$out/sample.tar" "dormouse/sample:$VERSION" "$from/dormouse" sample
  # Static: it uses less than a shared C library takes to load (programs.sh).
  image "$out/parker.tar" "dormouse/parker:$VERSION" "$from/dormouse-parker" /dormouse-parker "$NOBODY" /dormouse-parker
  runtime "$out/runtime-nodejs.tar" "dormouse/runtime-nodejs:$VERSION" /usr/bin/node nodejs main.js lib package.json
  runtime "$out/runtime-python.tar" "dormouse/runtime-python:$VERSION" /usr/bin/python3 python main.py dormouse
}

load() {
  local file
  for file in "$1"/*.tar; do import "$file"; done
}

case ${1:-} in
  base) base ;;
  build) build "${2:?folder of the programs}" "${3:-$CACHE/images}" ;;
  examples) examples "${2:?folder for the archives}" ;;
  load) load "${2:-$CACHE/images}" ;;
  *) sed -n '2,8s/^# //p' "$0" >&2; exit 2 ;;
esac
