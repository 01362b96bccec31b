#!/usr/bin/env bash
# A fresh cluster with our images in it.
. "$(dirname "$0")/lib.sh"
if [ -n "${DORMOUSE_TEST_KUBECONFIG:-}" ]; then
  echo "using the cluster of $DORMOUSE_TEST_KUBECONFIG; dormouse/{controller,activator,sample}:0.1.0 must be loaded there"
  exit
fi
need_root
tests/cluster/down.sh # a fresh one: what an earlier run left would be tested along
tests/cluster/up.sh
tests/cluster/images.sh load "$IMAGES"
