{{/*
Names are fixed, not made from the release's: driver, pools and sockets exist once per
node, and a second release is refused by Helm because of the first one's objects.
*/}}

{{/* The labels of an object: (list $), or (list $ OWN), OWN as a dict. */}}
{{- define "holdfast.labels" -}}
{{- $own := dict }}
{{- if gt (len .) 1 }}{{ $own = index . 1 | default dict }}{{ end }}
{{- merge (dict "app.kubernetes.io/part-of" "holdfast") $own (index . 0).Values.commonLabels | toYaml }}
{{- end }}

{{/* The labels of what belongs to a workload: (list $ "NAME"). */}}
{{- define "holdfast.labelsOf" -}}
{{- include "holdfast.labels" (list (index . 0) (dict "app.kubernetes.io/name" (index . 1))) }}
{{- end }}

{{/* The annotations of an object, or nothing: (list $), or (list $ OWN). */}}
{{- define "holdfast.annotations" -}}
{{- $own := dict }}
{{- if gt (len .) 1 }}{{ $own = index . 1 | default dict }}{{ end }}
{{- with merge (dict) $own (index . 0).Values.commonAnnotations -}}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The same for an object that helm uninstall leaves: (list $). */}}
{{- define "holdfast.annotationsOfKept" -}}
{{- $own := dict }}
{{- if not (index . 0).Values.plainManifests }}
{{- $own = dict "helm.sh/resource-policy" "keep" }}
{{- end }}
{{- include "holdfast.annotations" (list (index . 0) $own) }}
{{- end }}

{{- define "holdfast.driverImage" -}}
{{ .Values.images.driver.repository }}:{{ .Values.images.driver.tag | default .Chart.AppVersion }}
{{- end }}

{{/* The image of a sidecar: (list $ "KEY"). */}}
{{- define "holdfast.image" -}}
{{- $image := index (index . 0).Values.images (index . 1) -}}
{{ $image.repository }}:{{ $image.tag }}
{{- end }}

{{/* The name and the directory of a pool: (list $ POOL). */}}
{{- define "holdfast.poolName" -}}
{{ (index . 1).name | default "default" }}
{{- end }}

{{- define "holdfast.poolDir" -}}
{{ (index . 1).dir | default (printf "%s/%s" (index . 0).Values.poolsDir (include "holdfast.poolName" .)) }}
{{- end }}

{{/*
NAMESPACE/NAME of a snapshot controller outside this release, if the cluster that is
asked has one.
*/}}
{{- define "holdfast.foreignSnapshotController" -}}
{{- $found := "" }}
{{- range (lookup "apps/v1" "Deployment" "" "").items }}
{{- if not (and (eq .metadata.namespace $.Release.Namespace) (eq .metadata.name "snapshot-controller")) }}
{{- $named := hasSuffix "snapshot-controller" .metadata.name }}
{{- range .spec.template.spec.containers }}
{{- $named = or $named (contains "/snapshot-controller" .image) }}
{{- end }}
{{- if and $named (not $found) }}
{{- $found = printf "%s/%s" .metadata.namespace .metadata.name }}
{{- end }}
{{- end }}
{{- end }}
{{- $found }}
{{- end }}

{{/*
A parameter of a class, as the text that Kubernetes wants. Helm reads each number as a
float, whose text is 1.048576e+06.
*/}}
{{- define "holdfast.parameter" -}}
{{- if and (kindIs "float64" .) (eq (. | int64 | float64) .) }}{{ . | int64 | toString | quote }}{{ else }}{{ . | toString | quote }}{{ end }}
{{- end }}

{{/* "true" if this release has the snapshot controller. */}}
{{- define "holdfast.hasSnapshotController" -}}
{{- $enabled := .Values.snapshotController.enabled | toString }}
{{- if or (eq $enabled "true") (and (eq $enabled "auto") (not (include "holdfast.foreignSnapshotController" .))) }}true{{ end }}
{{- end }}

{{/* "true" if the cluster is of this version or newer: (list $ "1.34"). */}}
{{- define "holdfast.kubernetesAtLeast" -}}
{{- if semverCompare (printf ">=%s.0-0" (index . 1)) (index . 0).Capabilities.KubeVersion.Version }}true{{ end }}
{{- end }}

{{/*
The audiences that the sources of identity volumes take, as a JSON list: those that they
name, and what pkg/credential takes of a source that names none.
*/}}
{{- define "holdfast.audiences" -}}
{{- $audiences := list }}
{{- range $name, $source := .Values.identity.sources }}
{{- range $kind, $fields := $source }}
{{- $default := "" }}
{{- if eq $kind "aws" }}{{ $default = "sts.amazonaws.com" }}
{{- else if eq $kind "gcp" }}{{ $default = printf "https://iam.googleapis.com/%s" ($fields.provider | default "") }}
{{- end }}
{{- with $fields.audience | default $default }}{{ $audiences = append $audiences . }}{{ end }}
{{- end }}
{{- end }}
{{- $audiences | uniq | sortAlpha | toJson }}
{{- end }}
