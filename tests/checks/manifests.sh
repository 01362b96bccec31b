#!/usr/bin/env bash
# What a real API server says to the chart with every set of values, and to the examples: `apply --dry-run=server`.
# Admission, CEL and cross-field rules speak here, which no schema check can.
. "$(dirname "$0")/suite.sh"
use_cluster
k=("$DORMOUSE_KUBECTL" --kubeconfig "$DORMOUSE_TEST_KUBECONFIG")
[ -z "$DORMOUSE_TEST_NETNS" ] || k=(nsenter "--net=/run/netns/$DORMOUSE_TEST_NETNS" "${k[@]}")
shopt -s nullglob globstar
space=dormouse-dry-$$
trap '"${k[@]}" delete namespace "$space" --wait=false >/dev/null' EXIT
"${k[@]}" create namespace "$space" >/dev/null
"${k[@]}" label namespace "$space" pod-security.kubernetes.io/enforce=restricted >/dev/null

n=0
for values in "" charts/dormouse/ci/*.yaml; do
  "$DORMOUSE_HELM" template dormouse charts/dormouse --no-hooks --namespace "$space" ${values:+--values "$values"} |
    "${k[@]}" apply --server-side --dry-run=server --namespace "$space" -f - >/dev/null || die "refused with ${values:-the default values}"
  n=$((n + 1))
done
echo "the chart is taken with $n sets of values"
