{{/* What the pods of every service share. */}}

{{/* seconds until a stopping pod is killed: (list $ "sfu") */}}
{{- define "roomwright.grace" -}}
{{- $part := index (index . 0).Values (index . 1) -}}
{{- if kindIs "invalid" $part.terminationGracePeriodSeconds -}}
{{- add $part.preStopSeconds $part.drainSeconds 15 -}}
{{- else -}}
{{- $part.terminationGracePeriodSeconds | int64 -}}
{{- end -}}
{{- end -}}

{{/* labels of a part's pods: (list $ "sfu") */}}
{{- define "roomwright.podLabels" -}}
{{ include "roomwright.labels" . }}
{{- with (index (index . 0).Values (index . 1)).podLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* annotations of a part's pods: (list $ "sfu" healthPort) */}}
{{- define "roomwright.podAnnotations" -}}
{{- $root := index . 0 -}}
{{- $own := (index $root.Values (index . 1)).podAnnotations -}}
{{- if $root.Values.metrics.podAnnotations -}}
{{- $own = merge (dict) $own (dict "prometheus.io/scrape" "true" "prometheus.io/path" "/metrics" "prometheus.io/port" (index . 2 | toString)) -}}
{{- end -}}
{{- with $root.Values.config -}}
{{- $own = merge (dict) $own (dict "checksum/config" (toYaml . | sha256sum)) -}}
{{- end -}}
{{- with $own }}{{ toYaml . }}{{ end -}}
{{- end -}}

{{/* where a part's pods run: (list $ "sfu" oneAHost); oneAHost: pods of the part exclude each other from a host */}}
{{- define "roomwright.scheduling" -}}
{{- $root := index . 0 -}}
{{- $part := index $root.Values (index . 1) -}}
{{- $alone := index . 2 -}}
{{- $name := index . 1 -}}
{{- with $part.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
tolerations:
  {{- range list "not-ready" "unreachable" }}
  - key: node.kubernetes.io/{{ . }}
    operator: Exists
    effect: NoExecute
    tolerationSeconds: {{ $root.Values.lostNodeSeconds }}
  {{- end }}
  {{- with $part.tolerations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- if $part.affinity }}
affinity:
  {{- toYaml $part.affinity | nindent 2 }}
{{- else if $alone }}
affinity:
  podAntiAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
      - topologyKey: kubernetes.io/hostname
        labelSelector:
          matchLabels:
            {{- include "roomwright.selector" (list $root (index . 1)) | nindent 12 }}
{{- else }}
affinity:
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      {{- range $key, $weight := dict "kubernetes.io/hostname" 100 "topology.kubernetes.io/zone" 50 }}
      - weight: {{ $weight }}
        podAffinityTerm:
          topologyKey: {{ $key }}
          labelSelector:
            matchLabels:
              {{- include "roomwright.selector" (list $root $name) | nindent 14 }}
      {{- end }}
{{- end }}
topologySpreadConstraints:
{{- $selector := dict "labelSelector" (dict "matchLabels" (include "roomwright.selector" (list $root (index . 1)) | fromYaml)) }}
{{- if $part.topologySpreadConstraints }}
{{- range $part.topologySpreadConstraints }}
  - {{- merge (deepCopy .) $selector | toYaml | nindent 4 }}
{{- end }}
{{- else }}
  # Zones are the affinity's: a spread over a label that nodes lack would count for nothing, this one included.
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    {{- $selector | toYaml | nindent 4 }}
{{- end }}
{{- with $part.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{/* identity of a pod: (list $ "sfu" mountsToken) */}}
{{- define "roomwright.identity" -}}
{{- $root := index . 0 -}}
{{- $part := index $root.Values (index . 1) -}}
serviceAccountName: {{ include "roomwright.serviceAccount" (list $root (index . 1)) }}
automountServiceAccountToken: {{ index . 2 }}
enableServiceLinks: false
{{- with $root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- merge (deepCopy $part.podSecurityContext) (include "roomwright.podSecurity" . | fromYaml) | toYaml | nindent 2 }}
{{- end -}}

{{- define "roomwright.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "roomwright.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* a container's security context: (list $ "sfu") */}}
{{- define "roomwright.security" -}}
{{- $part := index (index . 0).Values (index . 1) -}}
{{- merge (deepCopy $part.securityContext) (include "roomwright.containerSecurity" . | fromYaml) | toYaml -}}
{{- end -}}

{{/* probes on the health port: (list $ "sfu") */}}
{{- define "roomwright.probes" -}}
{{- $given := (index (index . 0).Values (index . 1)).probes -}}
{{- /* An sfu pod looks for its address for up to 300 s before it serves anything. */ -}}
{{- $patience := ternary 180 60 (eq (index . 1) "sfu") -}}
startupProbe:
  {{- merge (deepCopy $given.startup) (dict "httpGet" (dict "path" "/readyz" "port" "health") "periodSeconds" 2 "timeoutSeconds" 2 "failureThreshold" $patience) | toYaml | nindent 2 }}
livenessProbe:
  {{- merge (deepCopy $given.liveness) (dict "httpGet" (dict "path" "/healthz" "port" "health") "periodSeconds" 10 "timeoutSeconds" 5 "failureThreshold" 6) | toYaml | nindent 2 }}
readinessProbe:
  {{- merge (deepCopy $given.readiness) (dict "httpGet" (dict "path" "/readyz" "port" "health") "periodSeconds" 3 "timeoutSeconds" 3 "failureThreshold" 3) | toYaml | nindent 2 }}
{{- end -}}

{{/* a fact about the pod as an environment variable: (list "POD_IP" "status.podIP") */}}
{{- define "roomwright.downward" -}}
- name: {{ index . 0 }}
  valueFrom:
    fieldRef:
      fieldPath: {{ index . 1 }}
{{- end -}}

{{/* environment that every service has: (list $ "sfu" grpcPort healthPort) */}}
{{- define "roomwright.env" -}}
{{- $root := index . 0 -}}
{{- $service := index . 1 -}}
{{- $prefix := upper $service -}}
{{- $part := index $root.Values $service -}}
{{- $v := $root.Values -}}
{{ include "roomwright.downward" (list "POD_IP" "status.podIP") }}
{{- if $v.config }}
- name: ROOMWRIGHT_CONFIG
  value: /config/config.yaml
{{- end }}
- name: {{ $prefix }}_LOG_LEVEL
  value: {{ $v.logLevel }}
- name: {{ $prefix }}_HEALTH_ADDRESS
  value: {{ include "roomwright.any" (list $root (index . 3)) | quote }}
- name: {{ $prefix }}_DRAIN_TIMEOUT_S
  value: {{ $part.drainSeconds | toJson | quote }}
- name: {{ $prefix }}_NATS_URL
  value: {{ include "roomwright.natsUrl" $root | quote }}
- name: {{ $prefix }}_NATS_REPLICAS
  value: {{ ternary (ternary 3 1 (ge (int $v.nats.replicas) 3)) (int $v.nats.external.replicas) $v.nats.enabled | quote }}
{{- if include "roomwright.natsSecret" $root }}
- name: {{ $prefix }}_NATS_USER
  value: {{ ternary $service (get $v.nats.external.users $service) $v.nats.enabled | quote }}
- name: {{ $prefix }}_NATS_PASSWORD_FILE
  value: /secrets/nats-password
{{- end }}
{{- if ne $service "placement" }}
- name: {{ $prefix }}_API_KEYS_FILE
  value: /secrets/keys.yaml
{{- with $v.secrets.keys.projects }}
- name: {{ $prefix }}_API_KEY_PROJECTS
  value: {{ toJson . | quote }}
{{- end }}
{{- end }}
{{- if $v.insecure }}
- name: {{ $prefix }}_INSECURE
  value: "true"
{{- else }}
- name: {{ $prefix }}_INTERNAL_TOKEN_FILE
  value: /secrets/internal-token
{{- end }}
{{- if include "roomwright.internalTlsSecret" $root }}
- name: {{ $prefix }}_INTERNAL_TLS_DIRECTORY
  value: /secrets/tls
{{- end }}
{{- if index . 2 }}
- name: {{ $prefix }}_GRPC_ADDRESS
  value: {{ include "roomwright.any" (list $root (index . 2)) | quote }}
- name: {{ $prefix }}_GRPC_ADVERTISE
  value: {{ include "roomwright.own" (list $root (index . 2)) | quote }}
{{- end }}
{{- with $v.region }}
- name: {{ $prefix }}_REGION
  value: {{ . | quote }}
{{- end }}
{{- with $v.otlpEndpoint }}
- name: {{ $prefix }}_OTLP_ENDPOINT
  value: {{ . | quote }}
{{- end }}
{{- if not (kindIs "invalid" $v.otlpSampleRatio) }}
- name: {{ $prefix }}_OTLP_SAMPLE_RATIO
  value: {{ $v.otlpSampleRatio | toJson | quote }}
{{- end }}
{{- end -}}

{{/* a service's `settings` as environment, in snake case: (list $ "sfu") */}}
{{- define "roomwright.settings" -}}
{{- $service := index . 1 -}}
{{- range $key, $value := (index (index . 0).Values $service).settings }}
{{- if not (or (kindIs "invalid" $value) (and (kindIs "slice" $value) (not $value))) }}
- name: {{ upper $service }}_{{ snakecase $key | upper }}
  value: {{ (kindIs "string" $value) | ternary $value (toJson $value) | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{/* environment that values add: (list $ "sfu") */}}
{{- define "roomwright.extraEnv" -}}
{{- $part := index (index . 0).Values (index . 1) -}}
{{- range $name, $value := $part.env }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- with $part.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* mounts that every service has: (list $ "sfu") */}}
{{- define "roomwright.mounts" -}}
- name: secrets
  mountPath: /secrets
  readOnly: true
- name: tmp
  mountPath: /tmp
{{- if (index . 0).Values.config }}
- name: config
  mountPath: /config
  readOnly: true
{{- end }}
{{- with (index (index . 0).Values (index . 1)).extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* volumes that every service has: (list $ "sfu") */}}
{{- define "roomwright.volumes" -}}
{{- $root := index . 0 -}}
{{- $service := index . 1 -}}
{{- $v := $root.Values -}}
- name: secrets
  projected:
    defaultMode: 0440
    sources:
      {{- if ne $service "placement" }}
      - secret:
          name: {{ include "roomwright.keysSecret" $root }}
          items:
            - key: {{ include "roomwright.keysField" $root }}
              path: keys.yaml
      {{- end }}
      {{- if not $v.insecure }}
      - secret:
          name: {{ include "roomwright.internalSecret" $root }}
          items:
            - key: {{ include "roomwright.internalField" $root }}
              path: internal-token
      {{- end }}
      {{- with include "roomwright.natsSecret" $root }}
      - secret:
          name: {{ . }}
          items:
            - key: {{ $service }}
              path: nats-password
      {{- end }}
      {{- with include "roomwright.internalTlsSecret" $root }}
      - secret:
          name: {{ . }}
          items:
            {{- range list "ca.crt" "tls.crt" "tls.key" }}
            - key: {{ . }}
              path: tls/{{ . }}
            {{- end }}
      {{- end }}
- name: tmp
  emptyDir:
    sizeLimit: 64Mi
{{- if $v.config }}
- name: config
  configMap:
    name: {{ include "roomwright.name" (list $root "config") }}
{{- end }}
{{- with (index $v $service).extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* what a stopping container does first: (list $ "sfu") */}}
{{- define "roomwright.preStop" -}}
{{- with (index (index . 0).Values (index . 1)).preStopSeconds -}}
lifecycle:
  preStop:
    exec:
      command: [sleep, {{ . | toJson | quote }}]
{{- end }}
{{- end -}}

{{- define "roomwright.natsUrl" -}}
{{- if .Values.nats.enabled -}}
{{- $root := . -}}
{{- $urls := list -}}
{{- range $i := until (int .Values.nats.replicas) -}}
{{- $urls = append $urls (printf "nats://%s-%d.%s:4222" (include "roomwright.name" (list $root "nats")) $i (include "roomwright.dns" (list $root "nats"))) -}}
{{- end -}}
{{- join "," $urls -}}
{{- else -}}
{{- .Values.nats.external.url -}}
{{- end -}}
{{- end -}}
