#!/usr/bin/env bash
# The programs of the test cluster, built once into the cache folder.
. "$(dirname "$0")/lib.sh"
[ -z "${DORMOUSE_TEST_KUBECONFIG:-}" ] || { echo "not needed: DORMOUSE_TEST_KUBECONFIG names a cluster"; exit; }
need_root
tests/cluster/build.sh
