#!/usr/bin/env bash
# From helm install to helm uninstall on a real cluster.
. "$(dirname "$0")/suite.sh"
if [ -z "${DORMOUSE_TEST_KUBECONFIG:-}" ]; then
  # One case needs them; the others do not.
  if (need_examples); then
    tests/cluster/images.sh examples "$IMAGES/examples"
    tests/cluster/images.sh load "$IMAGES/examples"
  fi
fi
suite cluster
