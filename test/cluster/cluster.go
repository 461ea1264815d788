package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// ErrNotRunning says that there is no cluster: `make cluster` starts one.
var ErrNotRunning = errors.New("there is no cluster: make cluster starts one")

var errNoTree = errors.New("not in a source tree of Holdfast: no go.mod from here up")

// Cluster is the cluster that runs on this machine. There is one at most.
type Cluster struct {
	layout
}

// Open finds the running cluster. ErrNotRunning if there is none.
func Open() (*Cluster, error) {
	l, err := findTree()
	if err != nil {
		return nil, err
	}
	for _, d := range append(l.controlPlane(), containerd(), l.kubelet()) {
		if _, ok := d.running(); !ok {
			return nil, fmt.Errorf("%w (%s does not run)", ErrNotRunning, d.name)
		}
	}
	// The cluster may have been started from another tree.
	if _, err := os.Stat(l.kubeconfig()); errors.Is(err, fs.ErrNotExist) {
		if err := errors.Join(os.MkdirAll(l.bin(), 0o755), writePKI(l.kubeconfig())); err != nil {
			return nil, err
		}
	}
	return &Cluster{layout: l}, nil
}

// Kubeconfig is the path of the administrator's configuration, and Kubectl of the
// program, for the user.
func (c *Cluster) Kubeconfig() (config, kubectl string) {
	return c.kubeconfig(), c.kubectl()
}

// RESTConfig speaks to the API server as the administrator.
func (c *Cluster) RESTConfig() (*rest.Config, error) { return c.restConfig() }

func (l layout) restConfig() (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", l.kubeconfig())
	if err != nil {
		return nil, err
	}
	config.QPS, config.Burst = 100, 200
	return config, nil
}

func (c *Cluster) client() (kubernetes.Interface, error) {
	config, err := c.restConfig()
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(config)
}

// Kubectl runs kubectl as the administrator and returns all that it says.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) (string, error) {
	return command(ctx, c.kubectl(), append([]string{"--kubeconfig=" + c.kubeconfig(), "--cache-dir=" + filepath.Join(dataDir, "kubectl")}, args...)...)
}

// StopKubelet ends kubelet; its pods run on.
func (c *Cluster) StopKubelet(ctx context.Context) error { return c.kubelet().stop(ctx) }

// StartKubelet starts kubelet, unless it runs, and waits until the node is ready.
func (c *Cluster) StartKubelet(ctx context.Context) error {
	var since metav1.Time // any time will do for one that runs: it speaks up every five minutes
	if _, runs := c.kubelet().running(); !runs {
		since = metav1.Now()
	}
	if err := c.kubelet().start(); err != nil {
		return err
	}
	return c.waitForNode(ctx, since)
}

// ContainerPID is the process id, on this machine, of a running container's first
// process.
func (c *Cluster) ContainerPID(ctx context.Context, namespace, pod, container string) (int, error) {
	client, err := c.client()
	if err != nil {
		return 0, err
	}
	id, err := containerID(ctx, client, namespace, pod, container)
	if err != nil {
		return 0, err
	}
	out, err := command(ctx, "ctr", "-a", containerdSocket, "-n", "k8s.io", "tasks", "ls")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(out) {
		var task, status string
		var pid int
		if n, _ := fmt.Sscan(line, &task, &pid, &status); n == 3 && task == id {
			return pid, nil
		}
	}
	return 0, fmt.Errorf("container %s of %s/%s has no process", container, namespace, pod)
}

// BuildDriverImage builds the driver of this tree, with Go build tags if any, and
// imports its image as ref, whose tag is the driver's version.
func (c *Cluster) BuildDriverImage(ctx context.Context, ref string, tags ...string) error {
	_, version, ok := strings.Cut(ref, ":")
	if !ok {
		return fmt.Errorf("image %s: want NAME:TAG", ref)
	}
	return c.importImage(ctx, ref, c.driverRootFS(version, tags))
}

// RemoveImage takes an image away that BuildDriverImage imported.
func (c *Cluster) RemoveImage(ctx context.Context, ref string) error {
	_, err := command(ctx, "ctr", "-a", containerdSocket, "-n", "k8s.io", "images", "rm", ref)
	return err
}
