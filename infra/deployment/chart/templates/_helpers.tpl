{{- define "usermodel.name" -}}
{{ printf "%s-%s" .root.Release.Name .component | trunc 52 | trimSuffix "-" }}
{{- end }}

{{- define "usermodel.selector" -}}
app.kubernetes.io/name: usermodel
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "usermodel.labels" -}}
{{ include "usermodel.selector" . }}
app.kubernetes.io/part-of: usermodel
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- end }}

{{- define "usermodel.metadata" -}}
name: {{ include "usermodel.name" . }}
namespace: {{ .root.Release.Namespace }}
labels: {{- include "usermodel.labels" . | nindent 2 }}
{{- end }}

{{- /* Whether what hosts share lies in object storage: then homes are caches, and nobody mounts a claim but jobs and who starts them. */ -}}
{{- define "usermodel.remote" -}}
{{ hasPrefix "s3://" (.Values.settings.storage_uri | default "") }}
{{- end }}

{{- /* Whether training is Volcano jobs: their ranks, and the tasks that start them, share the claim as their home. */ -}}
{{- define "usermodel.jobs" -}}
{{ eq (.Values.settings.scheduler | default "local") "kubernetes" }}
{{- end }}

{{- /* Whether tasks may start them. */ -}}
{{- define "usermodel.launches" -}}
{{- $asked := include "usermodel.jobs" . | eq "true" -}}
{{- $np := .Values.networkPolicy -}}
{{- if and $asked $np.enabled (not $np.kubernetes) -}}
{{- fail "networkPolicy.kubernetes: who the API server is, for settings.scheduler kubernetes; nobody reaches it otherwise" -}}
{{- end -}}
{{ or $asked (gt (len $np.kubernetes) 0) }}
{{- end }}

{{- /* http, or https where our services show certificates */ -}}
{{- define "usermodel.scheme" -}}
{{ ternary "https" "http" (eq .Values.tls.mode "required") }}
{{- end }}

{{- define "usermodel.airflow" -}}
{{ include "usermodel.scheme" . }}://{{ .Values.airflow.apiServer }}:{{ .Values.airflow.apiPort }}
{{- end }}

{{- define "usermodel.claim" -}}
{{ .Values.state.existingClaim | default (include "usermodel.name" (dict "root" . "component" "state")) }}
{{- end }}

{{- define "usermodel.image" -}}
{{ required "image.repository: the registry and name of the image" .Values.image.repository }}@{{ required "image.digest: sha256:… of the image that was pushed" .Values.image.digest }}
{{- end }}

{{- /* MODEL=host:port,host:port …, shard 0 first, as USERMODEL_SERVING_SHARDS wants it */ -}}
{{- define "usermodel.shards" -}}
{{- $root := . -}}
{{- $models := list -}}
{{- range .Values.shards -}}
{{- $name := include "usermodel.name" (dict "root" $root "component" (printf "shard-%s" (.model | replace "_" "-"))) -}}
{{- $places := list -}}
{{- range $index := until (int .count) -}}
{{- $places = append $places (printf "%s-%d.%s.%s.svc:%v" $name $index $name $root.Release.Namespace $root.Values.shardPort) -}}
{{- end -}}
{{- $models = append $models (printf "%s=%s" .model (join "," $places)) -}}
{{- end -}}
{{ join " " $models }}
{{- end }}

{{- /*
A pod: root, component, command (list), of (its values: resources), and optionally
  secrets: names of .Values.secrets whose files it reads        state: paths below the home folder, read-only; "*": all, writable
  jobs: true where it starts Volcano jobs: its state is the claim's with object storage too
  ports: name -> number        probes: YAML        env: YAML        tls: true where it shows or wants a certificate
*/ -}}
{{- define "usermodel.pod" -}}
{{- $root := .root -}}
{{- $values := .root.Values -}}
{{- $state := ternary list (default list .state) (and (include "usermodel.remote" $root | eq "true") (not .jobs)) -}}
{{- $writes := has "*" $state -}}
{{- $files := dict -}}
{{- range $path, $secret := .secrets }}{{ if $secret.name }}{{ $_ := set $files $path $secret }}{{ end }}{{ end -}}
{{- $tls := and .tls (eq $values.tls.mode "required") -}}
metadata:
  labels: {{- include "usermodel.labels" . | nindent 4 }}
  annotations:
    checksum/settings: {{ include (print $root.Template.BasePath "/settings.yaml") $root | sha256sum }}
spec:
  serviceAccountName: {{ include "usermodel.name" (dict "root" $root "component" .component) }}
  automountServiceAccountToken: {{ .token | default false }}
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ .grace | default 30 }}
  {{- with $values.image.pullSecrets }}
  imagePullSecrets: {{- range . }}{{ printf "\n    - name: %s" . }}{{ end }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 10001
    runAsGroup: 10001
    fsGroup: 10001
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile: {type: RuntimeDefault}
  topologySpreadConstraints:
    {{- range $values.topologyKeys }}
    - maxSkew: 1
      topologyKey: {{ . }}
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels: {{- include "usermodel.selector" $ | nindent 10 }}
    {{- end }}
  {{- with (.of.nodeSelector | default $values.nodeSelector) }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with (.of.tolerations | default $values.tolerations) }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: {{ .container | default .component }}
      image: {{ include "usermodel.image" $root }}
      imagePullPolicy: {{ $values.image.pullPolicy }}
      command: {{- range .command }}{{ printf "\n        - %s" (. | toString | quote) }}{{ end }}
      envFrom:
        - configMapRef: {name: {{ include "usermodel.name" (dict "root" $root "component" "settings") }}}
      {{- with .env }}
      env: {{- . | nindent 8 }}
      {{- end }}
      {{- with .ports }}
      ports: {{- range $name, $port := . }}{{ printf "\n        - {name: %s, containerPort: %v}" $name $port }}{{ end }}
      {{- end }}
      {{- with .probes }}
      {{- . | nindent 6 }}
      {{- end }}
      resources: {{- toYaml .of.resources | nindent 8 }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: {drop: [ALL]}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        - {name: home, mountPath: /var/lib/usermodel}
        {{- if not $writes }}
        {{- range $state }}
        - {name: state, mountPath: /var/lib/usermodel/{{ . }}, subPath: {{ . }}, readOnly: true}
        {{- end }}
        {{- end }}
        {{- if $files }}
        - {name: credentials, mountPath: /var/lib/usermodel/credentials, readOnly: true}
        {{- end }}
        {{- if $tls }}
        - {name: tls, mountPath: /var/run/usermodel/tls, readOnly: true}
        {{- end }}
        {{- if .memory }}
        - {name: memory, mountPath: /dev/shm}
        {{- end }}
  volumes:
    - name: tmp
      emptyDir: {sizeLimit: 2Gi}
    {{- $claim := dict "claimName" (include "usermodel.claim" $root) }}
    - name: home
      {{- if $writes }}
      persistentVolumeClaim: {{- toYaml $claim | nindent 8 }}
      {{- else }}
      emptyDir: {sizeLimit: {{ .of.cache | default "10Gi" }}}
      {{- end }}
    {{- if and $state (not $writes) }}
    - name: state
      persistentVolumeClaim: {{- toYaml $claim | nindent 8 }}
    {{- end }}
    {{- if $files }}
    - name: credentials
      projected:
        defaultMode: 0440
        sources:
          {{- range $path, $secret := $files }}
          - secret:
              name: {{ $secret.name }}
              items: [{key: {{ $secret.key }}, path: {{ $path }}}]
          {{- end }}
    {{- end }}
    {{- if $tls }}
    - name: tls
      secret: {secretName: {{ $values.tls.secretName }}, defaultMode: 0440}
    {{- end }}
    {{- if .memory }}
    - name: memory
      emptyDir: {medium: Memory, sizeLimit: {{ .memory }}}
    {{- end }}
{{- end }}

{{- /* A probe's httpGet. localhost: it would name the pod's address, to which the services do not answer. */ -}}
{{- define "usermodel.get" -}}
httpGet: {path: {{ .path }}, port: {{ .port }}, scheme: {{ ternary "HTTPS" "HTTP" (and (.tls | default false) (eq .root.Values.tls.mode "required")) }}, httpHeaders: [{name: Host, value: localhost}]}
{{- end }}

{{- /* Probes of a page of metrics: it is alive. A champion that is not promoted yet is no reason to restart it. */ -}}
{{- define "usermodel.metrics.probes" -}}
{{- $get := include "usermodel.get" (dict "root" . "path" "/healthz" "port" "metrics" "tls" true) -}}
startupProbe:
  {{ $get }}
  periodSeconds: 5
  failureThreshold: 60
livenessProbe:
  {{ $get }}
  periodSeconds: 15
  timeoutSeconds: 5
readinessProbe:
  {{ $get }}
  periodSeconds: 10
  timeoutSeconds: 5
{{- end }}

{{- /* The tail of a disruption budget, for a component of several replicas. */ -}}
{{- define "usermodel.budget" -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {{- include "usermodel.metadata" . | nindent 2 }}
spec:
  maxUnavailable: 1
  selector:
    matchLabels: {{- include "usermodel.selector" . | nindent 6 }}
{{- end }}

{{- define "usermodel.account" -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  {{- include "usermodel.metadata" . | nindent 2 }}
  {{- with .root.Values.serviceAccount.annotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
automountServiceAccountToken: false
{{- end }}

{{- /* Who may ask, where this component answers to others. */ -}}
{{- define "usermodel.tokens" -}}
- {name: USERMODEL_TOKENS_FILE, value: /var/lib/usermodel/credentials/tokens}
{{- end }}
