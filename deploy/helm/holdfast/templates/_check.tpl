{{/*
What a schema cannot say of values. Each message names the value, and what to do.
*/}}
{{- define "holdfast.check" -}}
{{- $state := "/var/lib/holdfast/state" }}
{{- $kubelet := .Values.kubeletDir }}
{{- $pools := .Values.poolsDir }}
{{- range list (list $kubelet $pools) (list $pools $kubelet) (list $state $pools) (list $state $kubelet) (list $pools $state) }}
{{- if hasPrefix (printf "%s/" (index . 0)) (printf "%s/" (index . 1)) }}
{{- fail (printf "%s and %s: one directory is inside the other, and mounts would multiply; change poolsDir or kubeletDir" (index . 0) (index . 1)) }}
{{- end }}
{{- end }}

{{- $names := list }}
{{- $dirs := list }}
{{- range .Values.pools }}
{{- $name := include "holdfast.poolName" (list $ .) }}
{{- if has $name $names }}
{{- fail (printf "pools: two have the name %q" $name) }}
{{- end }}
{{- $names = append $names $name }}
{{- $dir := include "holdfast.poolDir" (list $ .) }}
{{- if not (hasPrefix (printf "%s/" $pools) $dir) }}
{{- fail (printf "pools: the dir %s of pool %s is not below poolsDir, %s, and the host would not see what is mounted there; move it, or set poolsDir to the directory that has all pools" $dir $name $pools) }}
{{- end }}
{{- range $dirs }}
{{- if or (hasPrefix (printf "%s/" .) (printf "%s/" $dir)) (hasPrefix (printf "%s/" $dir) (printf "%s/" .)) }}
{{- fail (printf "pools: %s and %s are the same directory, or one is inside the other" . $dir) }}
{{- end }}
{{- end }}
{{- $dirs = append $dirs $dir }}
{{- end }}
{{- if not (or $names .Values.plainManifests) }}
{{- fail "pools: there is none, and a driver without a pool has no place for volumes; leave the value out for a pool of 20 GiB" }}
{{- end }}

{{- $classes := list }}
{{- range .Values.storageClasses }}
{{- if has .name $classes }}
{{- fail (printf "storageClasses: two have the name %q" .name) }}
{{- end }}
{{- $classes = append $classes .name }}
{{- $pool := dig "parameters" "pool" "" . }}
{{- if and $names $pool (not (has $pool $names)) }}
{{- fail (printf "storageClasses: class %s chooses the pool %q, and pools has %s" .name $pool (join ", " $names)) }}
{{- end }}
{{- if and (not $pool) (gt (len $names) 1) (not (has "default" $names)) }}
{{- fail (printf "storageClasses: class %s chooses no pool, and of several pools none is named default; set its parameters.pool to one of %s" .name (join ", " $names)) }}
{{- end }}
{{- end }}
{{- if and .Values.defaultStorageClass (not (has .Values.defaultStorageClass $classes)) }}
{{- fail (printf "defaultStorageClass: %q is not among storageClasses, which has %s" .Values.defaultStorageClass (join ", " $classes | default "none")) }}
{{- end }}

{{- $snapshotClasses := list }}
{{- $default := "" }}
{{- range .Values.volumeSnapshotClasses }}
{{- if has .name $snapshotClasses }}
{{- fail (printf "volumeSnapshotClasses: two have the name %q" .name) }}
{{- end }}
{{- $snapshotClasses = append $snapshotClasses .name }}
{{- if and .default $default }}
{{- fail (printf "volumeSnapshotClasses: %s and %s are both the default, and snapshots that name no class would be refused" $default .name) }}
{{- end }}
{{- if .default }}{{ $default = .name }}{{ end }}
{{- end }}
{{- end }}
