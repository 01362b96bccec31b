# A Rust suite with real programs: `suite NAME [ARGUMENT...]` builds and runs the test target suite_NAME, or what the
# arguments choose of its tests (a name's beginning, say). Sourced by dev.sh, bill.sh, ...
# shellcheck shell=bash
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# use_cluster: exports how to reach the cluster: one that the user named, or the one of up.sh.
use_cluster() {
  if [ -n "${DORMOUSE_TEST_KUBECONFIG:-}" ]; then
    DORMOUSE_HELM=${DORMOUSE_HELM:-$(find_helm)}
    DORMOUSE_KUBECTL=${DORMOUSE_KUBECTL:-$(command -v kubectl || cannot "needs kubectl in PATH, or DORMOUSE_KUBECTL")}
    DORMOUSE_TEST_NETNS=${DORMOUSE_TEST_NETNS:-}
  else
    DORMOUSE_TEST_KUBECONFIG=$DIR/admin.kubeconfig DORMOUSE_TEST_NETNS=$NETNS
    DORMOUSE_HELM=$DIR/bin/helm DORMOUSE_KUBECTL=$DIR/bin/kubectl
  fi
  export DORMOUSE_TEST_KUBECONFIG DORMOUSE_TEST_NETNS DORMOUSE_HELM DORMOUSE_KUBECTL
}

suite() {
  local inside=()
  export DORMOUSE_BIN_DIR=$PROGRAMS
  if [ "$1" = cluster ]; then
    use_cluster
    # Pod and service addresses exist only in there.
    [ -z "$DORMOUSE_TEST_NETNS" ] || inside=(nsenter "--net=/run/netns/$DORMOUSE_TEST_NETNS")
  fi
  # What it mounts is gone with its last process, however that ends.
  [ "$1" != power ] || inside=(unshare --mount)
  # The whole workspace, as unit tests are built: with other features of the same crates all would be compiled again.
  local build=(cargo test --locked --workspace --features dormouse-tests/suites --test "suite_$1")
  "${build[@]}" --no-run # the namespace has no way to the registry
  "${inside[@]}" "${build[@]}" -- --nocapture "${@:2}"
}
