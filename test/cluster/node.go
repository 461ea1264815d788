package cluster

import (
	"fmt"
	"os"
	"path/filepath"
)

// containerdConfig: restrict_oom_score_adj because lowering a score needs
// CAP_SYS_RESOURCE, which a machine inside a sandbox may not have.
const containerdConfig = `version = 2
root = "` + containerdRoot + `"
state = "` + containerdState + `"
oom_score = 0
[grpc]
  address = "` + containerdSocket + `"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "` + pauseImage + `"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "` + cniDir + `"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
`

// kubeletConfig: the thresholds are low, for a disk that is nearly full is no
// reason for a test to be evicted; images are never collected, for there is no
// registry to get them from again.
const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: ` + pkiDir + `/ca.crt}}
authorization: {mode: Webhook}
cgroupDriver: cgroupfs
failCgroupV1: false
failSwapOn: false
containerRuntimeEndpoint: unix://` + containerdSocket + `
podLogsDir: ` + logDir + `/pods
evictionHard: {memory.available: 100Mi, nodefs.available: 500Mi, imagefs.available: 500Mi}
imageGCHighThresholdPercent: 100
makeIPTablesUtilChains: false
maxPods: 250
healthzPort: 0
`

func containerd() daemon {
	return daemon{name: "containerd", path: "/usr/bin/containerd", args: []string{"--config", filepath.Join(dataDir, "containerd.toml")}}
}

func (l layout) kubelet() daemon {
	return daemon{name: "kubelet", path: filepath.Join(l.kubernetesDir(), "kubelet"), args: []string{
		"--config=" + filepath.Join(dataDir, "kubelet.yaml"), "--kubeconfig=" + pki("kubelet.kubeconfig"),
		"--root-dir=" + KubeletDir, "--hostname-override=" + NodeName, "--node-ip=" + nodeIP, "--v=2",
	}}
}

// writeNodeConfig writes what containerd and kubelet read.
func writeNodeConfig() error {
	for name, text := range map[string]string{"containerd.toml": containerdConfig, "kubelet.yaml": kubeletConfig} {
		if err := os.WriteFile(filepath.Join(dataDir, name), []byte(text), 0o644); err != nil {
			return fmt.Errorf("configure the node: %w", err)
		}
	}
	return nil
}
