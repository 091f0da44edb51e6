{{- define "dictpfl.labels" -}}
app.kubernetes.io/name: dictpfl
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: {{ .Values.role }}
{{- end -}}

{{- define "dictpfl.image" -}}
{{ .Values.image.repository }}{{ if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ .Values.image.tag }}{{ end }}
{{- end -}}

{{/* What every container may do: nothing but its work. */}}
{{- define "dictpfl.hardened" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* Who may read metrics, as a rule of a NetworkPolicy. */}}
{{- define "dictpfl.scrapers" -}}
{{- if .Values.metrics.enabled -}}
- ports: [{protocol: TCP, port: 9465}]
  from: {{- toYaml .Values.metrics.from | nindent 4 }}
{{- end -}}
{{- end -}}

{{/* Port on the pod's loopback at which `up` serves metrics; 0 for none, which `up` keeps, too. */}}
{{- define "dictpfl.metricsPort" -}}
{{ ternary "9464" "0" .Values.metrics.enabled | quote }}
{{- end -}}

{{/* The party's folder. Not the volume's root: Kubernetes gives that to the group, and dictpfl refuses a folder that others may enter. */}}
{{- define "dictpfl.folder" -}}
/volume/party
{{- end -}}
