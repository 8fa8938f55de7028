{{/* Name of everything that belongs to this release: "paddock" gives paddock-operator. */}}
{{- define "paddock.fullname" -}}
{{- if hasSuffix "operator" .Release.Name }}{{ .Release.Name }}{{ else }}{{ printf "%s-operator" .Release.Name }}{{ end }}
{{- end }}

{{- define "paddock.selector" -}}
app.kubernetes.io/name: paddock-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "paddock.labels" -}}
{{ include "paddock.selector" . }}
app.kubernetes.io/component: operator
app.kubernetes.io/part-of: paddock
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* An image reference. Call with (dict "image" .Values.images.x "root" $). */}}
{{- define "paddock.image" -}}
{{- $tag := .image.tag | default .root.Chart.AppVersion }}
{{- if .image.digest }}{{ .image.repository }}@{{ .image.digest }}{{ else }}{{ .image.repository }}:{{ $tag }}{{ end }}
{{- end }}

{{/* The ServiceAccount as a subject of bindings. */}}
{{- define "paddock.subject" -}}
- kind: ServiceAccount
  name: {{ include "paddock.fullname" . }}
  namespace: {{ .Release.Namespace }}
{{- end }}

{{/* The operator's settings file. Fields: paddock_operator/core/cluster/settings.py. */}}
{{- define "paddock.settings" -}}
namespace: {{ .Release.Namespace }}
namespaces: {{ toJson .Values.watch.namespaces }}
images:
  gateway: {{ include "paddock.image" (dict "image" .Values.images.gateway "root" $) | quote }}
  runner: {{ include "paddock.image" (dict "image" .Values.images.runner "root" $) | quote }}
  pullPolicy: {{ .Values.images.pullPolicy }}
  pullSecrets: {{ toJson .Values.imagePullSecrets }}
cache:
  mode: {{ .Values.cache.mode }}
  claimName: {{ .Values.cache.claimName }}
  size: {{ .Values.cache.size | quote }}
  storageClass: {{ .Values.cache.storageClass | quote }}
  accessMode: {{ .Values.cache.accessMode }}
sources:
  allow:
    {{- range .Values.sources.allow }}
    - host: {{ .host | quote }}
      cidr: {{ .cidr | quote }}
      port: {{ .port | default 443 | int64 }}
    {{- else }} []
    {{- end }}
  mirrors: {{ toJson .Values.sources.mirrors }}
  proxy:
    https: {{ .Values.sources.proxy.https | quote }}
    http: {{ .Values.sources.proxy.http | quote }}
    noProxy: {{ toJson .Values.sources.proxy.noProxy }}
    cidr: {{ .Values.sources.proxy.cidr | quote }}
    secret: {{ .Values.sources.proxy.secret | quote }}
  offline: {{ .Values.sources.offline }}
  rate: {{ .Values.sources.rate | quote }}
  connections: {{ int64 .Values.sources.connections }}
  caConfigMap: {{ .Values.sources.caConfigMap | quote }}
  huggingFaceEndpoint: {{ .Values.sources.huggingFaceEndpoint | quote }}
apiServer:
  cidr: {{ .Values.apiServer.cidr | quote }}
  ports:
    {{- range .Values.apiServer.ports }}
    - {{ int64 . }}
    {{- end }}
maxRolling: {{ int64 .Values.maxRolling }}
driftSeconds: {{ int64 .Values.driftSeconds }}
collectSeconds: {{ int64 .Values.collectSeconds }}
collectMinAgeSeconds: {{ int64 .Values.collectMinAgeSeconds }}
resyncSeconds: {{ int64 .Values.resyncSeconds }}
workers: {{ int64 .Values.workers }}
leaderElection: {{ gt (int64 .Values.replicas) 1 }}
{{- end }}
