package cluster

// NodeIP is the address of the only node.
const NodeIP = nodeIP

// OpenStopped finds the cluster of this machine although kubelet may be stopped.
func OpenStopped() (*Cluster, error) {
	l, err := findTree()
	if err != nil {
		return nil, err
	}
	if _, err := readClaim(); err != nil {
		return nil, ErrNotRunning
	}
	return &Cluster{layout: l}, nil
}

// KubeletRuns reports whether kubelet does.
func (c *Cluster) KubeletRuns() bool {
	_, runs := c.kubelet().running()
	return runs
}

// LaunchKubelet starts kubelet, unless it runs, and does not wait for the node.
func (c *Cluster) LaunchKubelet() error { return c.kubelet().start() }
