package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/holdfast-csi/holdfast/pkg/mount"
)

// What a user applies.
const (
	overlay  = "deploy/kustomize/overlays/single-node"
	crds     = "deploy/kustomize/components/snapshot-controller/crds"
	examples = "deploy/examples"
)

// Up starts the cluster with Holdfast installed, or what of it does not run. It
// needs root, and takes minutes where nothing is built yet. log is told what
// takes time.
func Up(ctx context.Context, log io.Writer) (*Cluster, error) {
	l, err := findTree()
	if err != nil {
		return nil, err
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("start a cluster: containers, mounts and addresses need root")
	}
	if named := os.Getenv(kubernetesVariable); named != "" && named != l.kubernetes {
		return nil, fmt.Errorf("start a cluster of Kubernetes %s: one of %s is there; make cluster-down removes it", named, l.kubernetes)
	}
	if err := claimMachine(); err != nil {
		return nil, err
	}
	if err := errors.Join(os.WriteFile(versionFile, []byte(l.kubernetes+"\n"), 0o644), l.build(ctx, log)); err != nil {
		return nil, err
	}
	for _, dir := range []string{dataDir, runDir, logDir, pkiDir, KubeletDir, PoolsDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(writePKI(l.kubeconfig()), writeNodeConfig()); err != nil {
		return nil, err
	}
	fmt.Fprintln(log, "starting Kubernetes")
	if err := startNetwork(ctx); err != nil {
		return nil, err
	}
	if err := l.startControlPlane(ctx); err != nil {
		return nil, err
	}
	c := &Cluster{layout: l}
	if err := c.startNode(ctx); err != nil {
		return nil, err
	}
	return c, c.install(ctx, log)
}

// Build builds what Up builds, and does nothing else. It needs no root.
func Build(ctx context.Context, log io.Writer) error {
	l, err := findTree()
	if err != nil {
		return err
	}
	return l.build(ctx, log)
}

func (l layout) build(ctx context.Context, log io.Writer) error {
	if err := os.MkdirAll(l.bin("build"), 0o755); err != nil {
		return err
	}
	for _, s := range l.programs() {
		if err := s.build(ctx, l.bin(), log); err != nil {
			return err
		}
	}
	return nil
}

// startNode starts containerd and kubelet and waits until the node is ready.
func (c *Cluster) startNode(ctx context.Context) error {
	for _, dir := range []string{KubeletDir, PoolsDir} {
		if err := share(dir); err != nil {
			return err
		}
	}
	if err := containerd().start(); err != nil {
		return err
	}
	if err := waitForContainerd(ctx); err != nil {
		return err
	}
	if err := c.provide(ctx, pauseImage, io.Discard); err != nil {
		return err
	}
	return c.StartKubelet(ctx)
}

// share makes the mounts below dir propagate. They do on a machine that systemd has
// started; elsewhere / may be private, and dir becomes a mount point of its own.
func share(dir string) error {
	on, err := mount.Containing(dir)
	if err != nil || on.PeerGroup != 0 {
		return err
	}
	if on.Path != dir {
		if err := unix.Mount(dir, dir, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("make %s a mount point: %w", dir, err)
		}
	}
	if err := unix.Mount("", dir, "", unix.MS_SHARED|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("make the mounts below %s propagate: %w", dir, err)
	}
	return nil
}

// install imports the images that the overlay names and applies it.
func (c *Cluster) install(ctx context.Context, log io.Writer) error {
	dir, err := c.overlayFor(log)
	if err != nil {
		return err
	}
	manifests, err := c.Kubectl(ctx, "kustomize", dir)
	if err != nil {
		return err
	}
	used, err := c.readAll(examples)
	if err != nil {
		return err
	}
	refs := append(imagesIn(manifests+used), busyboxImage, workloadImage)
	for _, ref := range refs {
		if err := c.provide(ctx, ref, log); err != nil {
			return err
		}
	}
	return c.apply(ctx, dir, log)
}

// Apply applies the manifests as Up does, whose images are there.
func (c *Cluster) Apply(ctx context.Context) error {
	dir, err := c.overlayFor(io.Discard)
	if err != nil {
		return err
	}
	return c.apply(ctx, dir, io.Discard)
}

// apply applies what is in the directory of an overlay, the CRDs first, and waits until
// it is ready.
func (c *Cluster) apply(ctx context.Context, dir string, log io.Writer) error {
	crds := filepath.Join(c.tree, crds)
	if _, err := c.Kubectl(ctx, "apply", "--server-side", "-f", crds); err != nil {
		return err
	}
	if _, err := c.Kubectl(ctx, "wait", "--for=condition=Established", "--timeout=60s", "-f", crds); err != nil {
		return err
	}
	fmt.Fprintln(log, "installing", overlay)
	before, _ := c.Kubectl(ctx, "-n", "holdfast-system", "get", "daemonset", "holdfast", "-o", "name", "--ignore-not-found")
	if _, err := c.Kubectl(ctx, "apply", "--server-side", "--force-conflicts", "-k", dir); err != nil {
		return err
	}
	if before != "" { // the image may have changed under its name
		if _, err := c.Kubectl(ctx, "-n", "holdfast-system", "rollout", "restart", "daemonset/holdfast"); err != nil {
			return err
		}
	}
	for _, what := range []string{"daemonset/holdfast", "deployment/snapshot-controller"} {
		if out, err := c.Kubectl(ctx, "-n", "holdfast-system", "rollout", "status", "--timeout=180s", what); err != nil {
			pods, _ := c.Kubectl(ctx, "-n", "holdfast-system", "describe", "pods")
			return fmt.Errorf("%w\n%s\n%s", err, out, pods)
		}
	}
	return nil
}

// readAll is the content of all YAML files of a directory of the tree.
func (l layout) readAll(dir string) (string, error) {
	files, err := filepath.Glob(filepath.Join(l.tree, dir, "*.yaml"))
	if err != nil || len(files) == 0 {
		return "", fmt.Errorf("%s has no YAML files: %w", dir, err)
	}
	var all strings.Builder
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		all.Write(append(data, '\n'))
	}
	return all.String(), nil
}

// provide makes and imports the image that ref names: always, if it is made from
// this tree, else if containerd does not have it.
func (c *Cluster) provide(ctx context.Context, ref string, log io.Writer) error {
	if !isOurs(ref) {
		out, err := command(ctx, "ctr", "-a", containerdSocket, "-n", "k8s.io", "images", "ls", "-q", "name=="+ref)
		if err != nil || out != "" {
			return err
		}
	}
	fmt.Fprintln(log, "image", ref)
	maker, err := c.maker(ref)
	if err != nil {
		return err
	}
	return c.importImage(ctx, ref, maker)
}

// waitForNode waits until kubelet has said since a time that the node is ready. One
// that ends meanwhile is started again, as an init does: containerd answers before it
// has found its containers again, and kubelet does not wait for that.
func (c *Cluster) waitForNode(ctx context.Context, since metav1.Time) error {
	client, err := c.client()
	if err != nil {
		return err
	}
	err = wait(ctx, 3*time.Minute, func() bool {
		if _, runs := c.kubelet().running(); !runs {
			_ = c.kubelet().start() // if it cannot be started, the node does not get ready
			return false
		}
		return nodeReady(ctx, client, since)
	})
	if err != nil {
		return fmt.Errorf("the node does not get ready: %w\n%s", err, c.kubelet().tail())
	}
	return nil
}

// nodeReady reports whether kubelet has said so since a time: what it said before
// it was restarted stands for a while.
func nodeReady(ctx context.Context, client kubernetes.Interface, since metav1.Time) bool {
	node, err := client.CoreV1().Nodes().Get(ctx, NodeName, metav1.GetOptions{})
	if err != nil {
		return false
	}
	for _, condition := range node.Status.Conditions {
		if condition.Type == "Ready" {
			return condition.Status == "True" && !condition.LastHeartbeatTime.Time.Before(since.Truncate(time.Second))
		}
	}
	return false
}
