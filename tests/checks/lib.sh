# What the checks share. Sourced, never run; leaves the checkout's root as working folder.
# shellcheck shell=bash
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

# The cluster of ./test is its own: a developer's (tests/cluster/up.sh) is neither used nor ended.
export DORMOUSE_CLUSTER_DIR=${XDG_CACHE_HOME:-$HOME/.cache}/dormouse/cluster/test
export DORMOUSE_CLUSTER_NETNS=dormouse-test
. tests/cluster/env.sh

TARGET=${CARGO_TARGET_DIR:-$PWD/target}
PROGRAMS=$TARGET/release
IMAGES=$TARGET/images

# helm: the kit's, else one that is installed.
find_helm() {
  local reason
  if reason=$(tests/cluster/build.sh helm 2>&1); then echo "$KIT/helm"; return; fi
  command -v helm || cannot "${reason##*$'\n'}, and no helm in PATH"
}

# What the functions of examples/ need: two languages, Python's packages, the servers that they speak to.
need_examples() {
  local packages=/usr/lib/python3/dist-packages
  need_packages node=nodejs python3=python3 curl=curl openssl=openssl /usr/lib/postgresql=postgresql redis-server=redis-server \
    $packages/psycopg2=python3-psycopg2 $packages/redis=python3-redis $packages/PIL=python3-pil
}
