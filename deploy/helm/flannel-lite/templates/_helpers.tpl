{{- define "flannel-lite.labels" -}}
tier: node
app: flannel
k8s-app: flannel
{{- end }}

{{- define "flannel-lite.image" -}}
{{ .Values.flannel.image.repository }}:{{ .Values.flannel.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "flannel-lite.installs" -}}
privileged: false
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
  # Some installers of clusters give these directories to a user of their own.
  add: [DAC_OVERRIDE]
{{- end }}

{{/* What cannot work is refused before anything of the cluster is changed. */}}
{{- define "flannel-lite.refuse" -}}
{{- if not .Values.lite }}
{{- fail "the values of another chart are in use: with helm upgrade say --reset-then-reuse-values in place of --reuse-values" }}
{{- end }}
{{- if regexMatch "^((ghcr\\.io/)?flannel-io/flannel|(docker\\.io/)?flannel/flannel|quay\\.io/coreos/flannel|(docker\\.io/)?rancher/(mirrored-flannel|hardened-flannel).*)$" .Values.flannel.image.repository }}
{{- fail (printf "flannel.image.repository is %s, which is flannel's own image: name flannel-lite's, or leave it out" .Values.flannel.image.repository) }}
{{- end }}
{{- $backend := .Values.flannel.backend }}
{{- if has $backend (list "wireguard" "ipsec") }}
{{- fail (printf "flannel.backend is %s: flannel-lite does not encrypt; choose vxlan and encrypt between the hosts, or stay with kube-flannel" $backend) }}
{{- end }}
{{- if eq $backend "extension" }}
{{- fail "flannel.backend is extension: its commands have no values here; mount a configuration of your own (docs/extension.md)" }}
{{- end }}
{{- if not (has $backend (list "vxlan" "host-gw" "udp" "ipip" "alloc")) }}
{{- fail (printf "flannel.backend is %s: it is to be vxlan, host-gw, udp, ipip or alloc" $backend) }}
{{- end }}
{{- if not (or .Values.podCidr .Values.podCidrv6) }}
{{- fail "podCidr and podCidrv6 are both empty: the network has neither IPv4 nor IPv6" }}
{{- end }}
{{- if and (eq $backend "udp") (or (eq .Values.lite.engine "kernel") (eq .Values.lite.onStop "kernel")) }}
{{- fail "lite.engine or lite.onStop is kernel: no kernel device speaks flannel.backend udp" }}
{{- end }}
{{- end }}

{{/* The network configuration, as flannel's nodes read it: what is empty, 0 or false is left out. */}}
{{- define "flannel-lite.net-conf" -}}
{{- $flannel := .Values.flannel }}
{{- $backend := dict "Type" $flannel.backend }}
{{- if has $flannel.backend (list "vxlan" "udp") }}
{{- with int $flannel.backendPort }}{{ $_ := set $backend "Port" . }}{{ end }}
{{- end }}
{{- if eq $flannel.backend "vxlan" }}
{{- with int $flannel.vni }}{{ $_ := set $backend "VNI" . }}{{ end }}
{{- with int $flannel.mtu }}{{ $_ := set $backend "MTU" . }}{{ end }}
{{- if eq (toString $flannel.GBP) "true" }}{{ $_ := set $backend "GBP" true }}{{ end }}
{{- if eq (toString $flannel.directRouting) "true" }}{{ $_ := set $backend "DirectRouting" true }}{{ end }}
{{- with $flannel.macPrefix }}{{ $_ := set $backend "MacPrefix" . }}{{ end }}
{{- end }}
{{- $conf := dict "Backend" $backend }}
{{- if .Values.podCidr }}{{ $_ := set $conf "Network" .Values.podCidr }}{{ else }}{{ $_ := set $conf "EnableIPv4" false }}{{ end }}
{{- if .Values.podCidrv6 }}{{ $_ := set $conf "IPv6Network" .Values.podCidrv6 }}{{ $_ := set $conf "EnableIPv6" true }}{{ end }}
{{- if $flannel.enableNFTables }}{{ $_ := set $conf "EnableNFTables" true }}{{ end }}
{{- toPrettyJson $conf }}
{{- end }}

{{/* Environment of the daemon: what config.toml would say. A flag in flannel.args goes before it. */}}
{{- define "flannel-lite.env" -}}
{{- $lite := .Values.lite -}}
- name: NODE_NAME
  valueFrom:
    fieldRef:
      fieldPath: spec.nodeName
- name: FLANNEL_LITE_DATAPATH_ENGINE
  value: {{ $lite.engine | quote }}
- name: FLANNEL_LITE_DATAPATH_ON_STOP
  value: {{ $lite.onStop | default (ternary "keep" "kernel" (eq .Values.flannel.backend "udp")) | quote }}
- name: FLANNEL_LITE_DATAPATH_STRICT
  value: {{ $lite.strict | quote }}
{{- if and .Values.podCidrv6 .Values.flannel.healthz.port }}
# The kubelet asks by the node's first address, which may be of either family.
- name: FLANNELD_HEALTHZ_IP
  value: "::"
{{- end }}
{{- with int $lite.metrics.port }}
- name: FLANNEL_LITE_METRICS_PORT
  value: {{ . | quote }}
- name: FLANNEL_LITE_METRICS_IP
  value: {{ $lite.metrics.ip | quote }}
{{- end }}
{{- with $lite.env }}
{{ toYaml . }}
{{- end }}
{{- end }}
