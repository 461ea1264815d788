package cluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// RebootKubeletFirst does what Reboot does, but kubelet is started while there is
// no containerd yet, as on a machine whose init does not order the two. A kubelet
// that ends because of that is started again, as an init does.
func (c *Cluster) RebootKubeletFirst(ctx context.Context) error {
	if err := c.stopNode(ctx); err != nil {
		return err
	}
	for _, dir := range []string{containerdState, filepath.Join(runDir, "ipam")} {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	for _, dir := range []string{KubeletDir, PoolsDir} { // what the mounts of a real machine are
		if err := share(dir); err != nil {
			return err
		}
	}
	since := metav1.Now()
	if err := c.kubelet().start(); err != nil {
		return err
	}
	ended := wait(ctx, 5*time.Second, func() bool { _, runs := c.kubelet().running(); return !runs })
	if err := ctx.Err(); ended != nil && err != nil {
		return err
	}
	if err := c.startNode(ctx); err != nil {
		return err
	}
	return c.waitForNode(ctx, since)
}

// RestartContainerd ends containerd and starts it again; its containers run on.
func (c *Cluster) RestartContainerd(ctx context.Context) error {
	if err := containerd().stop(ctx); err != nil {
		return err
	}
	if err := containerd().start(); err != nil {
		return err
	}
	return waitForContainerd(ctx)
}

func waitForContainerd(ctx context.Context) error {
	if err := wait(ctx, 30*time.Second, func() bool {
		_, err := command(ctx, "ctr", "-a", containerdSocket, "version")
		return err == nil
	}); err != nil {
		return fmt.Errorf("containerd does not come up: %w\n%s", err, containerd().tail())
	}
	return nil
}
