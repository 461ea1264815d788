package cluster

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// defaultKubernetes is the version of Kubernetes unless kubernetesVariable, in the
// environment, names another that can be had as a Go module.
const (
	defaultKubernetes  = "v1.36.3"
	kubernetesVariable = "HOLDFAST_KUBERNETES"
)

// What the manifests name, and what tests look at on the node.
const (
	// NodeName is the name of the only node.
	NodeName = "holdfast-node"
	// KubeletDir is kubelet's directory.
	KubeletDir = "/var/lib/kubelet"
	// HoldfastDir has the driver's directories on the node.
	HoldfastDir = "/var/lib/holdfast"
	// PoolsDir is where the driver's pools are.
	PoolsDir = HoldfastDir + "/pools"
	// StateDir is the driver's state directory.
	StateDir = HoldfastDir + "/state"
)

const (
	// dataDir survives a reboot of the cluster.
	dataDir = "/var/lib/holdfast-cluster"
	// runDir does not. Short, for a socket's path has 107 bytes (unix(7)).
	runDir = "/run/holdfast-cluster"
	logDir = dataDir + "/log"
	pkiDir = dataDir + "/pki"
	cniDir = dataDir + "/cni"

	containerdSocket = runDir + "/containerd.sock"
	containerdRoot   = dataDir + "/containerd"
	containerdState  = runDir + "/containerd"

	// bridgeName is the network device of the pods.
	bridgeName = "holdfast0"
	podCIDR    = "10.244.0.0/20"
	// serviceIP is the first address of serviceCIDR, which the API server gives to
	// the service "kubernetes". It is an address of this machine, and the API
	// server listens there: pods reach it without a service proxy.
	serviceIP   = "10.96.0.1"
	serviceCIDR = "10.96.0.0/16"
	// nodeIP is the node's own address: kubelet refuses those of the loopback net.
	nodeIP = "10.89.0.1"
	// etcdURL and etcdPeerURL are on ports that a real etcd would not have.
	etcdURL     = "http://127.0.0.1:23790"
	etcdPeerURL = "http://127.0.0.1:23800"
	serverURL   = "https://" + serviceIP
)

// layout is where things are in the tree that this package was built from.
type layout struct {
	tree       string // the top of the tree
	kubernetes string // the version of Kubernetes
}

// bin is where programs are built, once.
func (l layout) bin(parts ...string) string {
	return filepath.Join(append([]string{l.tree, "bin", "cluster"}, parts...)...)
}

// kubernetesDir has the programs of Kubernetes.
func (l layout) kubernetesDir() string {
	if l.kubernetes == defaultKubernetes {
		return l.bin()
	}
	return l.bin(l.kubernetes)
}

func (l layout) kubectl() string { return filepath.Join(l.kubernetesDir(), "kubectl") }

// versionFile says of which version the cluster is that was started.
const versionFile = dataDir + "/kubernetes"

// chooseKubernetes is the version of the cluster that is there, else the one that the
// environment names, else the default.
func chooseKubernetes() (string, error) {
	version, err := os.ReadFile(versionFile)
	if err == nil {
		return strings.TrimSpace(string(version)), nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if named := os.Getenv(kubernetesVariable); named != "" {
		return named, nil
	}
	return defaultKubernetes, nil
}

// Kubeconfig is the administrator's, for the user's own kubectl.
func (l layout) kubeconfig() string { return l.bin("kubeconfig") }

// findTree looks for go.mod from the working directory up.
func findTree() (layout, error) {
	dir, err := os.Getwd()
	if err != nil {
		return layout{}, err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			version, err := chooseKubernetes()
			return layout{tree: dir, kubernetes: version}, err
		}
		up := filepath.Dir(dir)
		if up == dir {
			return layout{}, errNoTree
		}
		dir = up
	}
}
