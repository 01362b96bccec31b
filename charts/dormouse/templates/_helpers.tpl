{{/*
Names are fixed, not made from the release's name: a cluster has one Dormouse, because two controllers would fight over
the same Functions. A second release is refused by Helm when it meets these objects.
*/}}

{{/* Labels of an object. Call with (list . "component"). */}}
{{- define "dormouse.labels" -}}
{{- $root := index . 0 -}}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
app.kubernetes.io/part-of: dormouse
{{ include "dormouse.selector" . }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/*
Labels of a component's pods: none that changes without need, since each change replaces the pods.
Call with (list . "component" labels-of-its-values).
*/}}
{{- define "dormouse.podLabels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/part-of: dormouse
{{ include "dormouse.selector" . }}
{{- with merge (dict) (index . 2) $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Labels by which a component's pods are found; they never change. Call with (list . "component"). */}}
{{- define "dormouse.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: dormouse
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* The same as one flag: key=value,key=value. Call with (list . "component"). */}}
{{- define "dormouse.selectorFlag" -}}
{{- $pairs := list -}}
{{- range $key, $value := include "dormouse.selector" . | fromYaml }}{{ $pairs = append $pairs (printf "%s=%s" $key $value) }}{{ end -}}
{{ join "," $pairs }}
{{- end -}}

{{/* An image's name: the digest wins over the tag. Call with (list . image). */}}
{{- define "dormouse.image" -}}
{{- $root := index . 0 -}}{{- $image := index . 1 -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default $root.Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* Security context of a pod of ours: the restricted Pod Security level. */}}
{{- define "dormouse.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* Security context of a container of ours. */}}
{{- define "dormouse.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* Name of the Secret with the shared token. */}}
{{- define "dormouse.secretName" -}}
{{ .Values.existingSecret | default "dormouse-token" }}
{{- end -}}

{{/*
The shared token: the value given, else the one that is there, else a new one. Remembered, so that every template of one
rendering sees the same.
*/}}
{{- define "dormouse.token" -}}
{{- if not (hasKey .Release "dormouseToken") -}}
{{- $token := .Values.token -}}
{{- if not $token -}}
{{- $there := lookup "v1" "Secret" .Release.Namespace "dormouse-token" | default dict -}}
{{- $token = index ($there.data | default dict) "token" | default "" | b64dec -}}
{{- end -}}
{{- $_ := set .Release "dormouseToken" ($token | default (randAlphaNum 48)) -}}
{{- end -}}
{{ .Release.dormouseToken }}
{{- end -}}

{{/* Pods restart when the token changes: they read it at their start. */}}
{{- define "dormouse.tokenSum" -}}
{{- if .Values.existingSecret -}}
{{ .Values.existingSecret | sha256sum }}
{{- else -}}
{{ include "dormouse.token" . | sha256sum }}
{{- end -}}
{{- end -}}

{{- define "dormouse.loadKeyName" -}}
{{ .Values.runtimes.loadKeySecret | default "dormouse-load-key" }}
{{- end -}}

{{/* What loads are signed by: the one that is there, else a new one; the same for every template of one rendering. */}}
{{- define "dormouse.loadKey" -}}
{{- if not (hasKey .Release "dormouseLoadKey") -}}
{{- $there := lookup "v1" "Secret" .Release.Namespace "dormouse-load-key" | default dict -}}
{{- $secret := index ($there.data | default dict) "secret" | default "" | b64dec -}}
{{- $_ := set .Release "dormouseLoadKey" ($secret | default (randAlphaNum 48)) -}}
{{- end -}}
{{ .Release.dormouseLoadKey }}
{{- end -}}

{{/* The controller restarts when it changes. */}}
{{- define "dormouse.loadKeySum" -}}
{{- if .Values.runtimes.loadKeySecret -}}
{{ .Values.runtimes.loadKeySecret | sha256sum }}
{{- else -}}
{{ include "dormouse.loadKey" . | sha256sum }}
{{- end -}}
{{- end -}}

{{/* Where the activators are inside the cluster. */}}
{{- define "dormouse.activatorUrl" -}}
{{- $port := int .Values.activator.service.port -}}
http://dormouse-activator.{{ .Release.Namespace }}.svc.{{ .Values.clusterDomain }}{{ if ne $port 80 }}:{{ $port }}{{ end }}
{{- end -}}

{{/* Scheduling of a component's pods. Call with its values. */}}
{{- define "dormouse.scheduling" -}}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Probes on the admin port. Ready at once matters more than a calm log: a waking call may wait for it. */}}
{{- define "dormouse.probes" -}}
startupProbe:
  httpGet: {path: /livez, port: admin}
  periodSeconds: 1
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /livez, port: admin}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: admin}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 2
{{- end -}}
