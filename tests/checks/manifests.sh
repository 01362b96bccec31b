#!/usr/bin/env bash
# What a real API server says to the chart with every set of values, and to the examples: `apply --dry-run=server`.
# Admission, CEL and cross-field rules speak here, which no schema check can.
. "$(dirname "$0")/suite.sh"
use_cluster
k=("$DORMOUSE_KUBECTL" --kubeconfig "$DORMOUSE_TEST_KUBECONFIG")
[ -z "$DORMOUSE_TEST_NETNS" ] || k=(nsenter "--net=/run/netns/$DORMOUSE_TEST_NETNS" "${k[@]}")
shopt -s nullglob globstar
space=dormouse-dry-$$
# The namespace comes from a kubeconfig of its own: with --namespace an object that names another one is refused, and a
# chart whose functions live elsewhere has such objects.
config=$(mktemp)
trap '"${k[@]}" delete namespace "$space" --wait=false >/dev/null; rm -f "$config"' EXIT
"${k[@]}" config view --raw --flatten >"$config"
"${k[@]}" create namespace "$space" >/dev/null
"${k[@]}" label namespace "$space" pod-security.kubernetes.io/enforce=restricted >/dev/null

apply=("${k[@]}" --kubeconfig "$config")
"${apply[@]}" config set-context --current --namespace "$space" >/dev/null

n=0
for values in "" charts/dormouse/ci/*.yaml; do
  "$DORMOUSE_HELM" template dormouse charts/dormouse --no-hooks --namespace "$space" ${values:+--values "$values"} |
    "${apply[@]}" apply --server-side --force-conflicts --dry-run=server -f - >/dev/null || die "refused with ${values:-the default values}"
  n=$((n + 1))
done
echo "the chart is taken with $n sets of values"
