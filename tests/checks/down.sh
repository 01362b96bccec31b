#!/usr/bin/env bash
# Ends the cluster of up.sh.
. "$(dirname "$0")/lib.sh"
[ -n "${DORMOUSE_TEST_KUBECONFIG:-}" ] || tests/cluster/down.sh
