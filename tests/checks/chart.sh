#!/usr/bin/env bash
# The chart without a cluster: lint, render with every set of values in charts/dormouse/ci, and (with the kit's `kube`)
# each object against its schema, the CRD also against the API server's own rules for CRDs.
. "$(dirname "$0")/lib.sh"
helm=$(find_helm)
chart=charts/dormouse
shopt -s nullglob
objects=$(mktemp)
trap 'rm -f "$objects"' EXIT
# $1: a file of values, or nothing.
render() { "$helm" template dormouse $chart --namespace dormouse-system ${1:+--values "$1"}; }

"$helm" lint --strict $chart
for values in "" $chart/ci/*.yaml; do
  [ -z "$values" ] || "$helm" lint --strict --quiet $chart --values "$values"
  { render "$values"; echo ---; } >> "$objects"
done
# An unknown value is a typing error of a user: the schema must refuse it.
! "$helm" template dormouse $chart --set noSuchValue=1 >/dev/null 2>&1 || die "values.schema.json accepts an unknown value"
# What else is refused, what is never rendered, documents that follow values.yaml.
DORMOUSE_HELM=$helm scripts/chart-check.sh
if ! reason=$(tests/cluster/build.sh kube 2>&1); then
  command -v go >/dev/null && die "$reason"
  echo "not checked against the schemas of Kubernetes: ${reason##*$'\n'}"
  exit
fi
"$KIT/kube" validate < "$objects"
