package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/backend/local"
	"github.com/holdfast-csi/holdfast/pkg/filesystem"
	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/pkg/teardown"
)

// Reboot does to the node what a reboot does: kubelet, containerd and all
// containers die at once, and their mounts and loop devices are gone. Then
// everything is started again. The control plane goes on.
func (c *Cluster) Reboot(ctx context.Context) error {
	if err := c.stopNode(ctx); err != nil {
		return err
	}
	for _, dir := range []string{containerdState, filepath.Join(runDir, "ipam")} {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return c.startNode(ctx)
}

// Down stops the cluster and gives the machine back as it was, the driver's volumes
// gone. It may be called whatever state the cluster is in, and again. Where there is
// no cluster of this package it does nothing.
func Down(ctx context.Context) error {
	l, err := findTree()
	if err != nil {
		return err
	}
	before, err := readClaim()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	c := &Cluster{layout: l}
	stopped := c.stopNode(ctx) // the rest must not wait for what hangs there
	daemons := l.controlPlane()
	slices.Reverse(daemons)
	for _, d := range daemons {
		stopped = errors.Join(stopped, d.kill(ctx))
	}
	if err := errors.Join(stopped, stopNetwork(ctx)); err != nil {
		return fmt.Errorf("%w; what is on the disk stays: repeat this when the cause is gone", err)
	}
	if err := os.Remove(l.kubeconfig()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return before.release()
}

// stopNode kills what runs on the node and takes its mounts and loops away.
func (c *Cluster) stopNode(ctx context.Context) error {
	if err := c.kubelet().kill(ctx); err != nil {
		return err
	}
	if err := killShims(ctx); err != nil {
		return err
	}
	if err := containerd().kill(ctx); err != nil {
		return err
	}
	// A pod's network namespace is a mount that the CNI plugins made.
	before, err := readClaim()
	if err != nil {
		return err
	}
	if err := removeNetworkNamespaces(before.networkNamespaces()); err != nil {
		return err
	}
	if err := unmountBelow(ctx, runDir); err != nil {
		return err
	}
	if err := stopBridge(ctx); err != nil {
		return err
	}
	for _, dir := range []string{KubeletDir, PoolsDir} {
		if _, err := os.Stat(dir); err != nil {
			continue
		}
		if err := detachLoops(dir); err != nil {
			return fmt.Errorf("detach the loop devices below %s: %w", dir, err)
		}
		if err := teardown.Below(ctx, dir); err != nil {
			return fmt.Errorf("take down what is mounted below %s: %w", dir, err)
		}
		if err := unmount(ctx, dir); err != nil {
			return err
		}
	}
	return removeCgroups()
}

// detachLoops detaches the loop devices that nobody unmounts: those of kubelet on
// the devices of block volumes, which have a path below dir, and those of the
// driver on images in its pools below dir. The kernel names the latter as they were
// called in the driver's mount namespace, which is gone, so they are found by their
// files. One whose filesystem is still mounted goes with its mount.
func detachLoops(dir string) error {
	images, err := poolImages(dir)
	if err != nil {
		return err
	}
	loops, err := loop.List()
	if err != nil {
		return err
	}
	for _, l := range loops {
		below := strings.HasPrefix(l.BackingPath, dir+"/") && !strings.HasSuffix(l.BackingPath, "/"+local.ImageFile) && isHere(l)
		if !below && !images[file{l.BackingDev, l.BackingInode}] {
			continue
		}
		if err := teardown.Detach(l); err != nil {
			return err
		}
	}
	return nil
}

// isHere reports whether the file of a loop device is the one at its path: a
// cluster in a container has the same paths.
func isHere(l loop.Info) bool {
	var st unix.Stat_t
	return unix.Stat(l.BackingPath, &st) == nil && st.Dev == l.BackingDev && st.Ino == l.BackingInode
}

// file identifies a file as stat(2) does.
type file struct{ device, inode uint64 }

// poolImages are the images of volumes in all pools below dir: a pool is a
// directory in it, or a mounted image in one.
func poolImages(dir string) (map[file]bool, error) {
	found := map[file]bool{}
	for _, pool := range []string{"*", "*/" + local.MountDir} {
		paths, _ := filepath.Glob(filepath.Join(dir, pool, "volumes/*/data/disk.img")) // the pattern is well-formed
		for _, path := range paths {
			var st unix.Stat_t
			if err := unix.Stat(path, &st); err != nil {
				return nil, fmt.Errorf("look at %s: %w", path, err)
			}
			found[file{st.Dev, st.Ino}] = true
		}
	}
	return found, nil
}

// killShims kills the shims of our containerd and every process below them: those
// of the containers are in kubelet's control groups.
func killShims(ctx context.Context) error {
	var shims []int
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err == nil && strings.Contains(string(line), "containerd-shim") && strings.Contains(string(line), "\x00"+containerdSocket+"\x00") {
			shims = append(shims, pid)
		}
	}
	all := append(podProcesses(), shims...)
	for _, pid := range all {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("kill a container's process %d: %w", pid, err)
		}
	}
	return wait(ctx, 20*time.Second, func() bool {
		thawAll() // a process that waits for a frozen filesystem cannot die
		return len(podProcesses()) == 0 && !anyAlive(shims)
	})
}

// thawAll thaws what is mounted below kubelet's directory: a snapshot may have been
// under way.
func thawAll() {
	mounts, err := mount.List()
	if err != nil {
		return
	}
	for _, m := range mounts {
		if !strings.HasPrefix(m.Path, KubeletDir+"/") || m.FSType != "ext4" && m.FSType != "xfs" {
			continue
		}
		if root, err := os.Open(m.Path); err == nil {
			_ = filesystem.Thaw(root) // most are not frozen, and the wait says if something hangs
			root.Close()
		}
	}
}

func anyAlive(pids []int) bool {
	return slices.ContainsFunc(pids, func(pid int) bool { _, err := startTime(pid); return err == nil })
}

// podCgroups are kubelet's control groups, in each hierarchy (cgroups(7)).
func podCgroups() []string {
	var found []string
	for _, pattern := range []string{"/sys/fs/cgroup/kubepods", "/sys/fs/cgroup/*/kubepods"} {
		dirs, _ := filepath.Glob(pattern) // the pattern is well-formed
		found = append(found, dirs...)
	}
	return found
}

// podProcesses are the processes in them.
func podProcesses() []int {
	seen := map[int]bool{}
	for _, top := range podCgroups() {
		_ = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.Name() != "cgroup.procs" {
				return nil // a group that goes while it is looked at has no process
			}
			data, _ := os.ReadFile(path)
			for field := range strings.FieldsSeq(string(data)) {
				if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
					seen[pid] = true
				}
			}
			return nil
		})
	}
	var pids []int
	for pid := range seen {
		pids = append(pids, pid)
	}
	return pids
}

// removeCgroups removes kubelet's control groups, the innermost first.
func removeCgroups() error {
	for _, top := range podCgroups() {
		var dirs []string
		_ = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		slices.Reverse(dirs)
		for _, dir := range dirs {
			err := unix.Rmdir(dir)
			for n := 0; n < 1000 && errors.Is(err, unix.EBUSY); n++ { // who was killed is not gone yet
				time.Sleep(10 * time.Millisecond)
				err = unix.Rmdir(dir)
			}
			if err != nil && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("remove the control group %s: %w", dir, err)
			}
		}
	}
	return nil
}

// removeNetworkNamespaces removes those that containerd's CRI plugin has named.
func removeNetworkNamespaces(names []string) error {
	for _, name := range names {
		if err := unix.Unmount(name, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("unmount %s: %w", name, err)
		}
		if err := os.Remove(name); err != nil {
			return err
		}
	}
	return nil
}

// unmountBelow unmounts what is below dir, the newest first.
func unmountBelow(ctx context.Context, dir string) error {
	mounts, err := mount.List()
	if err != nil {
		return err
	}
	for i := len(mounts) - 1; i >= 0 && ctx.Err() == nil; i-- {
		if strings.HasPrefix(mounts[i].Path, dir+"/") {
			if err := unmount(ctx, mounts[i].Path); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}

// unmount unmounts what is mounted on dir. The threads of a process that was killed
// may hold it for an instant longer.
func unmount(ctx context.Context, dir string) error {
	var err error
	gone := func() bool {
		err = unix.Unmount(dir, 0)
		return !errors.Is(err, unix.EBUSY)
	}
	if late := wait(ctx, 10*time.Second, gone); late != nil || err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	return nil
}

// removeTree removes a directory, and refuses if anything is still mounted there.
func removeTree(dir string) error {
	mounts, err := mount.List()
	if err != nil {
		return err
	}
	for _, m := range mounts {
		if m.Path == dir || strings.HasPrefix(m.Path, dir+"/") {
			return fmt.Errorf("remove %s: %s is still mounted", dir, m.Path)
		}
	}
	return os.RemoveAll(dir)
}
