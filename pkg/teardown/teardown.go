// Package teardown takes mounts and loop devices away as the stop of a machine
// does: for the demo to leave nothing behind however it ends, and for tests to
// see what comes back after a start.
//
// It promises to touch nothing that is not below the directory it is given, or
// stacked on what is. The driver itself never uses it.
package teardown

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// poolImage is the name of a pool's image: its loop goes with the pool's mount.
const poolImage = "/pool.img"

// Below takes down all mounts and loop devices below dir, pools last. It fails if
// something stays. ctx bounds each unmount.
func Below(ctx context.Context, dir string) error {
	root, err := mount.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	mounts, err := mount.List()
	if err != nil {
		return err
	}
	loops, err := LoopsBelow(root.Path())
	if err != nil {
		return err
	}
	var pools []string
	for i := len(mounts) - 1; i >= 0; i-- {
		if !strings.HasPrefix(mounts[i].Path, root.Path()+"/") {
			continue
		}
		if mounts[i].FSType == "btrfs" || hasImage(mounts[i].Path, loops) {
			pools = append(pools, mounts[i].Path)
			continue
		}
		if err := unmount(ctx, root, mounts[i].Path); err != nil {
			return err
		}
	}
	if err := detachBelow(root.Path()); err != nil {
		return err
	}
	for _, p := range pools {
		if err := unmount(ctx, root, p); err != nil {
			return err
		}
	}
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		// Those that were ours to begin with: without the pools, paths of another
		// mount namespace could not be told from them.
		left, err := stillAttached(loops)
		if err != nil || len(left) == 0 {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("loops stay attached: %v", left)
		}
	}
}

// patience is how long the kernel gets to let go of what nobody needs any more.
const patience = 5 * time.Second

// unmount tries again for a while: who was just killed, or a device that was just let
// go, may have a file in it still.
func unmount(ctx context.Context, root *mount.Root, path string) error {
	end := time.Now().Add(patience)
	err := root.Unmount(ctx, path)
	for ; errors.Is(err, volume.ErrInUse) && ctx.Err() == nil && time.Now().Before(end); err = root.Unmount(ctx, path) {
		time.Sleep(5 * time.Millisecond)
	}
	return err
}

// hasImage says whether a loop device is on a file below a mount.
func hasImage(mount string, loops []loop.Info) bool {
	return slices.ContainsFunc(loops, func(l loop.Info) bool { return strings.HasPrefix(l.BackingPath, mount+"/") })
}

// stillAttached are those of the loop devices that still have the same file.
func stillAttached(loops []loop.Info) ([]loop.Info, error) {
	now, err := loop.List()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(now, func(n loop.Info) bool {
		return !slices.ContainsFunc(loops, func(l loop.Info) bool {
			return l.Index == n.Index && l.BackingDev == n.BackingDev && l.BackingInode == n.BackingInode
		})
	}), nil
}

// isElsewhere reports whether the kernel's path of a backing file is that of
// another mount namespace, such as a container with a driver of its own: here
// another file is there, or none. One that was deleted has a path that says so.
func isElsewhere(l loop.Info) bool {
	var st unix.Stat_t
	err := unix.Stat(l.BackingPath, &st)
	if err == nil {
		return !l.Dead && (st.Dev != l.BackingDev || st.Ino != l.BackingInode)
	}
	return errors.Is(err, unix.ENOENT) && !strings.HasSuffix(l.BackingPath, " (deleted)")
}

// LoopsBelow are the attached loop devices whose backing file is below dir, and
// those that are stacked on such a device, which come first. Those that another
// mount namespace has at the same path are left out, where that can be seen.
func LoopsBelow(dir string) ([]loop.Info, error) {
	all, err := loop.List()
	if err != nil {
		return nil, err
	}
	var below, stacked []loop.Info
	nodes := map[string]bool{}
	for _, l := range all {
		if strings.HasPrefix(l.BackingPath, dir+"/") && !isElsewhere(l) {
			below = append(below, l)
			nodes[fmt.Sprintf("/dev/loop%d", l.Index)] = true
		}
	}
	for _, l := range all {
		if nodes[l.BackingPath] {
			stacked = append(stacked, l)
		}
	}
	return append(stacked, below...), nil
}

// detachBelow detaches the loops of volumes, not those of pools, which their
// mounts hold.
func detachBelow(dir string) error {
	loops, err := LoopsBelow(dir)
	if err != nil {
		return err
	}
	for _, l := range loops {
		if strings.HasSuffix(l.BackingPath, poolImage) {
			continue
		}
		if err := Detach(l); err != nil {
			return err
		}
	}
	return nil
}

// Detach lets a loop device go. One that is gone is success.
func Detach(l loop.Info) error {
	d, err := l.Open()
	if errors.Is(err, volume.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(d.Detach(), d.Close())
}
