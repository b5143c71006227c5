{{/* Every resource name and label, once. */}}

{{- define "roomwright.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if .Values.nameOverride -}}
{{- printf "%s-%s" .Release.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* name of a part: (list $ "sfu") */}}
{{- define "roomwright.name" -}}
{{- printf "%s-%s" (include "roomwright.fullname" (index . 0)) (index . 1) -}}
{{- end -}}

{{/* labels that select a part's pods, never changed: (list $ "sfu") */}}
{{- define "roomwright.selector" -}}
app.kubernetes.io/name: roomwright
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
{{- with index . 1 }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end -}}

{{/* labels of a part's resources: (list $ "sfu") */}}
{{- define "roomwright.labels" -}}
{{- $root := index . 0 -}}
{{ include "roomwright.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
app.kubernetes.io/part-of: roomwright
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* metadata of a resource: (list $ "component" "name" annotations...) */}}
{{- define "roomwright.metadata" -}}
{{- $root := index . 0 -}}
name: {{ index . 2 }}
namespace: {{ $root.Release.Namespace }}
labels:
  {{- include "roomwright.labels" (list $root (index . 1)) | nindent 2 }}
{{- if gt (len .) 3 }}
{{- with index . 3 }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "roomwright.serviceAccount" -}}
{{- $root := index . 0 -}}
{{- $part := index $root.Values (index . 1) -}}
{{- if $part.serviceAccount.name -}}
{{- $part.serviceAccount.name -}}
{{- else if $part.serviceAccount.create -}}
{{- include "roomwright.name" . -}}
{{- else -}}
default
{{- end -}}
{{- end -}}

{{/* is anybody to be told by webhooks? Without targets the service is left out */}}
{{- define "roomwright.hasWebhooks" -}}
{{- if or .Values.webhook.settings.urls .Values.webhook.urlsSecret.name }}yes{{ end -}}
{{- end -}}

{{/* names of the services that run, as a JSON list */}}
{{- define "roomwright.services" -}}
{{- $services := list "signaling" "placement" "sfu" -}}
{{- if include "roomwright.hasWebhooks" . -}}{{- $services = append $services "webhook" -}}{{- end -}}
{{- toJson $services -}}
{{- end -}}

{{/* a service's image: (list $ "sfu") */}}
{{- define "roomwright.image" -}}
{{- $root := index . 0 -}}
{{- $image := (index $root.Values (index . 1)).image -}}
{{- $tag := $image.tag | default $root.Values.image.tag | default $root.Chart.AppVersion -}}
{{- $name := printf "%s%s" $root.Values.image.prefix $image.repository -}}
{{- include "roomwright.imageName" (list $root.Values.image.registry $name $tag $image.digest) -}}
{{- end -}}

{{/* (list registry name tag digest) */}}
{{- define "roomwright.imageName" -}}
{{- with index . 0 }}{{ . | trimSuffix "/" }}/{{ end -}}
{{- index . 1 -}}
{{- if index . 3 }}@{{ index . 3 }}{{ else }}:{{ index . 2 }}{{ end -}}
{{- end -}}

{{/* Keys from values have another name than made ones, so that one can be changed into the other. */}}
{{- define "roomwright.keysSecret" -}}
{{- .Values.secrets.keys.existingSecret | default (include "roomwright.name" (list . (ternary "api-keys" "keys" (not (empty .Values.secrets.keys.values))))) -}}
{{- end -}}
{{- define "roomwright.keysField" -}}
{{- ternary .Values.secrets.keys.field "keys.yaml" (not (empty .Values.secrets.keys.existingSecret)) -}}
{{- end -}}
{{- define "roomwright.internalField" -}}
{{- ternary .Values.secrets.internal.field "token" (not (empty .Values.secrets.internal.existingSecret)) -}}
{{- end -}}
{{- define "roomwright.internalSecret" -}}
{{- .Values.secrets.internal.existingSecret | default (include "roomwright.name" (list . "internal")) -}}
{{- end -}}
{{- define "roomwright.natsSecret" -}}
{{- if .Values.nats.enabled -}}
{{- .Values.secrets.nats.existingSecret | default (include "roomwright.name" (list . "nats")) -}}
{{- else -}}
{{- .Values.nats.external.existingSecret -}}
{{- end -}}
{{- end -}}
{{- define "roomwright.internalTlsSecret" -}}
{{- if .Values.internalTls.existingSecret -}}
{{- .Values.internalTls.existingSecret -}}
{{- else if .Values.internalTls.certManager.issuerRef -}}
{{- include "roomwright.name" (list . "internal-tls") -}}
{{- end -}}
{{- end -}}

{{/* a Service's DNS name: (list $ "placement-headless") */}}
{{- define "roomwright.dns" -}}
{{- $root := index . 0 -}}
{{- printf "%s.%s.svc.%s" (include "roomwright.name" .) $root.Release.Namespace $root.Values.clusterDomain -}}
{{- end -}}

{{/* wildcard addresses for a port, one per family, as a JSON list: (list $ 7882) */}}
{{- define "roomwright.everywhere" -}}
{{- $port := index . 1 | int -}}
{{- $found := list -}}
{{- range (index . 0).Values.ipFamilies -}}
{{- $found = append $found (printf "%s:%d" (ternary "[::]" "0.0.0.0" (eq . "IPv6")) $port) -}}
{{- end -}}
{{- toJson $found -}}
{{- end -}}

{{/* the wildcard address of the primary family: (list $ 8080) */}}
{{- define "roomwright.any" -}}
{{- printf "%s:%d" (ternary "[::]" "0.0.0.0" (eq (first (index . 0).Values.ipFamilies) "IPv6")) (index . 1 | int) -}}
{{- end -}}

{{/* host:port of the pod itself: (list $ 8080) */}}
{{- define "roomwright.own" -}}
{{- printf "%s:%d" (ternary "[$(POD_IP)]" "$(POD_IP)" (eq (first (index . 0).Values.ipFamilies) "IPv6")) (index . 1 | int) -}}
{{- end -}}
