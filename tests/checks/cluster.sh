#!/usr/bin/env bash
# From helm install to helm uninstall on a real cluster.
. "$(dirname "$0")/suite.sh"
suite cluster
