#!/usr/bin/env bash
# From helm install to helm uninstall on a real cluster.
. "$(dirname "$0")/suite.sh"
if [ -z "${DORMOUSE_TEST_KUBECONFIG:-}" ]; then
  need_examples
  tests/cluster/images.sh examples "$IMAGES/examples"
  tests/cluster/images.sh load "$IMAGES/examples"
fi
suite cluster
