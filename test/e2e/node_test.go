package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/test/cluster"
)

// kubeletCSI is where kubelet has what CSI drivers stage and map.
const kubeletCSI = cluster.KubeletDir + "/plugins/kubernetes.io/csi"

// waitNothingLeft waits until the node has no trace of any of these volumes and
// snapshots, which are given by handle with the names of their objects.
func waitNothingLeft(ctx context.Context, volumes, snapshots map[string]string) error {
	const patience = aWhile // kubelet tries again only after up to two minutes
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		left, err := traces(volumes, snapshots)
		if err != nil || len(left) == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("left on the node %s after all objects were gone:\n%s", patience, strings.Join(left, "\n"))
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// traces lists what the node has of these volumes and snapshots.
func traces(volumes, snapshots map[string]string) ([]string, error) {
	var words, left []string
	for handle, name := range volumes {
		words = append(words, handle, name, stagingHash(handle))
		for _, path := range []string{
			filepath.Join(kubeletCSI, driverName, stagingHash(handle)),
			filepath.Join(kubeletCSI, "volumeDevices", name),
			filepath.Join(kubeletCSI, "volumeDevices", "publish", name),
			filepath.Join(kubeletCSI, "volumeDevices", "staging", name),
		} {
			if _, err := os.Lstat(path); err == nil {
				left = append(left, "directory "+path)
			}
		}
	}
	for handle, name := range snapshots {
		words = append(words, handle, name)
	}
	if len(words) == 0 {
		return nil, nil
	}
	has := func(path string) bool {
		return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(path, w) })
	}
	objects, err := poolObjects()
	if err != nil {
		return nil, err
	}
	intents, err := filepath.Glob(filepath.Join(cluster.StateDir, "freeze", "*"))
	if err != nil {
		return nil, err
	}
	for _, path := range append(objects, intents...) {
		if has(filepath.Base(path)) {
			left = append(left, "file "+path)
		}
	}
	loops, err := loop.List()
	if err != nil {
		return nil, err
	}
	for _, l := range loops {
		if has(l.BackingPath) {
			left = append(left, fmt.Sprintf("loop device %d on %s", l.Index, l.BackingPath))
		}
	}
	mounts, err := mount.List()
	if err != nil {
		return nil, err
	}
	for _, m := range mounts {
		if has(m.Path) || has(m.Root) {
			left = append(left, "mount "+m.Path)
		}
	}
	return left, nil
}

// stagingHash names the directory in which kubelet has a volume staged
// (pkg/volume/csi/csi_mounter.go, makeDeviceMountPath).
func stagingHash(handle string) string {
	sum := sha256.Sum256([]byte(handle))
	return hex.EncodeToString(sum[:])
}

// poolObjects are the directories of all volumes and snapshots in all pools, under
// construction and in the trash too: a pool is a directory, or a mounted image in
// it.
func poolObjects() ([]string, error) {
	var found []string
	for _, pool := range []string{"*", "*/pool"} {
		for _, kind := range []string{"volumes", "snapshots", ".staging", ".trash"} {
			paths, err := filepath.Glob(filepath.Join(cluster.PoolsDir, pool, kind, "*"))
			if err != nil {
				return nil, err
			}
			found = append(found, paths...)
		}
	}
	return found, nil
}

// poolUse is how many bytes of its disk the default pool uses. What was deleted
// counts until the filesystem has freed it.
func poolUse() (volume.Bytes, error) {
	for _, pool := range []string{"default/pool", "default"} {
		path := filepath.Join(cluster.PoolsDir, pool)
		if _, err := os.Stat(filepath.Join(path, "volumes")); err != nil {
			continue
		}
		dir, err := os.Open(path)
		if err != nil {
			return 0, err
		}
		defer dir.Close()
		// btrfs counts an extent when it commits, which fsync does not make it do.
		if err := unix.Syncfs(int(dir.Fd())); err != nil {
			return 0, fmt.Errorf("syncfs %s: %w", path, err)
		}
		var st unix.Statfs_t
		if err := unix.Fstatfs(int(dir.Fd()), &st); err != nil {
			return 0, fmt.Errorf("statfs %s: %w", path, err)
		}
		return volume.Bytes(int64(st.Blocks-st.Bfree) * st.Bsize), nil
	}
	return 0, fmt.Errorf("measure the default pool: there is none in %s", cluster.PoolsDir)
}

// ownersOfAll demands that every volume and snapshot in a pool belongs to an
// object of the cluster, whoever made it. What is on its way has the time given.
func ownersOfAll(ctx context.Context, patience time.Duration) error {
	a, err := open()
	if err != nil {
		return err
	}
	for end := time.Now().Add(patience); ; time.Sleep(time.Second) {
		orphans, err := a.orphans(ctx)
		if err != nil || len(orphans) == 0 {
			return err
		}
		if time.Now().After(end) {
			return errors.New("these belong to nobody:\n" + strings.Join(orphans, "\n"))
		}
	}
}

func (a access) orphans(ctx context.Context) ([]string, error) {
	owned := map[string]bool{}
	volumes, err := a.kube.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for _, pv := range volumes.Items {
		if pv.Spec.CSI != nil {
			owned[pv.Spec.CSI.VolumeHandle] = true
		}
	}
	contents, err := a.snap.SnapshotV1().VolumeSnapshotContents().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for i := range contents.Items {
		owned[snapshotHandle(&contents.Items[i])] = true
	}
	objects, err := poolObjects()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(objects, func(path string) bool { return owned[filepath.Base(path)] }), nil
}

// attachedOf lists what the node has attached or mounted of these volumes, given by
// handle with the names of their objects.
func attachedOf(volumes map[string]string) ([]string, error) {
	left, err := traces(volumes, nil)
	return slices.DeleteFunc(left, func(trace string) bool { return strings.HasPrefix(trace, "file ") }), err
}
