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
