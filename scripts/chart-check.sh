#!/usr/bin/env bash
# Checks the chart: lint, rendering with every set of values in charts/dormouse/ci, what the schema must refuse, and what
# must never be rendered. Needs helm ($DORMOUSE_HELM, or in the path), no cluster.
set -euo pipefail
cd "$(dirname "$0")/.."
chart=charts/dormouse
helm=${DORMOUSE_HELM:-helm}
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT

die() { echo "chart: $*" >&2; exit 1; }
command -v "$helm" >/dev/null || { echo "needs helm: put it in the path or name it in DORMOUSE_HELM" >&2; exit 77; }

python3 scripts/chart-docs.py --check
"$helm" lint --strict --quiet "$chart"

# shown NAME ARGS...: renders into $work/NAME.
shown() { local name=$1; shift; "$helm" template dormouse "$chart" --namespace dormouse-system "$@" > "$work/$name" || die "$name does not render"; }
has() { grep -qF -- "$2" "$work/$1" || die "$1 lacks: $2"; }
lacks() { ! grep -qF -- "$2" "$work/$1" || die "$1 has: $2"; }

shown default
for file in "$chart"/ci/*.yaml; do
  name=$(basename "$file" -values.yaml)
  "$helm" lint --strict --quiet "$chart" --values "$file"
  shown "$name" --values "$file"
done

# The CRDs arrive whole: without the labels and the annotation that the chart adds, they are the generated files.
awk '/^# Source: /{crd = ($3 ~ /crds.yaml/); next} /^---$/{next} crd' "$work/default" |
  sed '/^  annotations:$/,/^    app.kubernetes.io\/component: crds$/d' | sed '/./,$!d' > "$work/crd"
diff <(grep . "$work/crd") <(cat "$chart"/files/{budgets,functions,warmpools}.dormouse.dev.yaml | grep .) || die "a CRD is changed on its way"

# Rights: no wildcard, no Secrets, none at all for the activators.
for name in default everything least; do
  lacks "$name" "'*'"; lacks "$name" '"*"]'; lacks "$name" "[*]"; lacks "$name" "resources: [secrets]"
  lacks "$name" "{kind: ServiceAccount, name: dormouse-activator"
  has "$name" "readOnlyRootFilesystem: true"; has "$name" "runAsNonRoot: true"; has "$name" "drop: [ALL]"
done
# What functions ran before is kept beside them; nobody's but the controller's own is changed.
for name in default everything least; do has "$name" "resources: [controllerrevisions]"; done
has default "--activator-url=http://dormouse-activator.dormouse-system.svc.cluster.local"
has default "--spool-max-bytes=805306368"
lacks default "--archive-dir"
shown archived --set ledger.archive.enabled=true --set ledger.postgres.secret=db
has archived "--archive-dir=/var/lib/dormouse/archive"; has archived "claimName: dormouse-ledger"; has archived "name: ledger-url"
has default "--keep-hours-days=400"; has default "--keep-records-days=35"; has default "--close-after-days=3"
has everything "--spool-max-bytes=4294967296"
has default "terminationGracePeriodSeconds: 730"
has everything "terminationGracePeriodSeconds: 732"
has everything '- "--head-limit-seconds=5"'
has everything "replicas: 32"
for name in default everything least; do
  has "$name" "{name: DORMOUSE_PEER_ADVERTISE, valueFrom: {fieldRef: {fieldPath: status.podIP}}}"; has "$name" "{name: peer, containerPort: 8082}"
  has "$name" "--system-namespace=dormouse-system"
  has "$name" "--activator-labels=app.kubernetes.io/component=activator,app.kubernetes.io/instance=dormouse,app.kubernetes.io/name=dormouse"
  has "$name" "--controller-labels=app.kubernetes.io/component=controller,app.kubernetes.io/instance=dormouse,app.kubernetes.io/name=dormouse"
done
# Who may be asked about, and who may read: no more where only the operator's token counts.
has default '"--usage-audiences=dormouse-usage"'; has everything '"--usage-audiences=dormouse-usage,https://kubernetes.default.svc"'; has least '"--usage-audiences="'
has default "resources: [tokenreviews]"; has default "resources: [subjectaccessreviews]"
lacks least "tokenreviews"; lacks least "subjectaccessreviews"
# Who pays for a namespace stands on its object; with functions.namespace only that one is read.
for name in default everything least; do has "$name" "resources: [namespaces]"; done
lacks default 'resourceNames: ["'; has everything 'resourceNames: ["default"]'
has default "resources: [functions/usage]"; has least "resources: [functions/usage]"
lacks default "kind: Ingress"; lacks least "name: dormouse-usage, port: {name: http}"
has everything 'host: "usage.example.com"'; has everything "name: dormouse-usage, port: {name: http}"
# Opted out, the controller may still remove what it made, and make nothing.
has default "--network-policies=make"; has least "--network-policies=remove"
has default "verbs: [list, watch, patch, delete]"; has least "verbs: [list, watch, delete]"
has default "kind: NetworkPolicy"; lacks least "kind: NetworkPolicy"
has everything "--max-connections=1000000"
lacks default "--access-log"; lacks default "--otlp-endpoint"; has default "--trace-ratio=1"
has everything "--access-log"; has everything "--otlp-endpoint=http://collector.observability.svc:4317"; has everything "--trace-ratio=0.01"
has everything "--trusted-proxies=10.0.0.0/8,fd00::/8"
has everything "image: registry.example.com/dormouse/controller@sha256:0000"
has everything "image: dormouse/activator:0.1.0-rc.1"
has everything "token: $(printf %s a-token-of-16-or-more | base64)"
[ "$(grep -c "helm.sh/resource-policy: keep" "$work/default")" = 4 ] || die "the CRDs and the ledger's claim are not all kept"
[ "$(grep -c "helm.sh/resource-policy: keep" "$work/everything")" = 3 ] || die "persistence.keep=false keeps the claim"
lacks least "kind: Secret"; lacks least "kind: CustomResourceDefinition"; lacks least "PersistentVolumeClaim"; lacks least "helm.sh/hook"
lacks claim "name: dormouse-ledger"
# A volume for each activator, or none.
has claim "kind: StatefulSet"; has claim "volumeClaimTemplates:"; has claim "storageClassName: fast"; lacks claim "emptyDir"; has claim "durability: disk"
lacks default "kind: StatefulSet"; lacks default "volumeClaimTemplates:"; has default "durability: process"

# refused VALUE: the schema names what is wrong.
refused() {
  ! "$helm" template dormouse "$chart" --set "$1" > /dev/null 2> "$work/refusal" || die "the schema takes $1"
  grep -q "values don't meet the specifications of the schema" "$work/refusal" || die "$1 fails, but not by the schema: $(cat "$work/refusal")"
}
for value in unknown=1 activator.replica=1 activator.tracing.ratio=2 activator.tracing.endpoint=collector:4317 controller.image.tga=x activator.service.type=Node pricePlan.perCall=1 pricePlan.perCall=1e-7 pricePlan.durability=raft activator.spool.persistent.size=big \
  pricePlan.bill.starts=true token=short domain=Upper.Case activator.resources.limit.memory=1Gi ingress.tls[0].host=a \
  controller.image.digest=latest commonLabels.app\\.kubernetes\\.io/name=x activator.replicas=33 persistence.size=big \
  activator.extraArgs[0]=-x networkPolicy.functions=yes networkPolicy.adminFrom[0].pods=x networkPolicy.usageFrom[0]=x \
  activator.extraEnv[0].name=DORMOUSE_PEER_LISTEN activator.extraEnv[0].name=RUST_LOG functions.name=x publicUrl=example.com \
  usageApi.ingress.enabled=true usageApi.ingress.host=Upper.Case usageApi.audiences=x usageApi.audiences[0]='a b' usageApi.ingress.hosts[0]=a; do
  refused "$value"
done
echo "chart: good" >&2
