package chart

// Everything is the name of the set that has all options on.
const Everything = "disks, and everything optional"

// ValueSets are values that people give to the chart, by what they want, as YAML
// documents.
func ValueSets() map[string]string {
	return map[string]string{
		"no values":      "",
		"a larger image": "pools: [{size: 100Gi}]", // as --set pools[0].size=100Gi
		"identity volumes": `
identity:
  enabled: true
  sources:
    vault: null
    shop: {vault: {address: "https://vault.shop.svc:8200", audience: shop, auth: {method: kubernetes}}}
  tokenSeconds: 7200
monitoring: {serviceMonitor: {enabled: true}}
podLabels: {pod: "yes"}
`,
		Everything: `
pools:
  - {name: default, size: 100Gi, filesystem: xfs}
  - {name: ssd}
  - {name: hdd, dir: /srv/holdfast/slow, filesystem: xfs}
poolsDir: /srv/holdfast
hostReserve: 5
overcommit: 1.5
trimInterval: 6h
freezeTimeout: 5s
verbosity: 2
kubeletDir: /var/snap/microk8s/common/var/lib/kubelet
extraArgs: ["--driver-name=csi.holdfast.dev"]
defaultStorageClass: fast
storageClasses:
  - {name: fast, fsType: xfs, parameters: {pool: ssd}, mountOptions: [noatime]}
  - {name: slow, reclaimPolicy: Retain, volumeBindingMode: Immediate, parameters: {pool: hdd, inodeRatio: 65536}, annotations: {team: "a"}, labels: {tier: "b"}}
volumeSnapshotClasses:
  - {name: frozen, default: true}
  - {name: crash, deletionPolicy: Retain, parameters: {consistency: crash}}
snapshotController: {enabled: true}
imagePullSecrets: [{name: registry}]
nodeSelector: {kubernetes.io/hostname: store}
affinity: {nodeAffinity: {}}
monitoring:
  serviceMonitor: {enabled: true, labels: {release: stack}}
  alertRules: {enabled: true}
  dashboard: {enabled: true, namespace: grafana}
networkPolicy: {enabled: true, metricsFrom: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}}]}
commonLabels: {owner: me}
commonAnnotations: {example.org/page: "1"}
podLabels: {pod: "yes"}
podAnnotations: {example.org/pod: "2"}
`,
	}
}
