// Package reboot takes mounts and loop devices away as the stop of a machine
// does, so that a test can see what comes back after a start, and leave nothing
// behind.
//
// It promises to touch nothing that is not below the directory it is given.
package reboot

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// poolImage is the name of a pool's image: its loop goes with the pool's mount.
const poolImage = "/pool.img"

// TearAway takes down all mounts and loop devices below dir, pools last. It fails
// if something stays.
func TearAway(dir string) error {
	root, err := mount.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	mounts, err := mount.List()
	if err != nil {
		return err
	}
	var pools []string
	for i := len(mounts) - 1; i >= 0; i-- {
		if !strings.HasPrefix(mounts[i].Path, root.Path()+"/") {
			continue
		}
		if mounts[i].FSType == "btrfs" {
			pools = append(pools, mounts[i].Path)
			continue
		}
		if err := root.Unmount(context.Background(), mounts[i].Path); err != nil {
			return err
		}
	}
	if err := detachBelow(root.Path()); err != nil {
		return err
	}
	for _, p := range pools {
		if err := root.Unmount(context.Background(), p); err != nil {
			return err
		}
	}
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		left, err := LoopsBelow(root.Path())
		if err != nil || len(left) == 0 {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("loops stay attached: %v", left)
		}
	}
}

// LoopsBelow are the attached loop devices whose backing file is below dir.
func LoopsBelow(dir string) ([]loop.Info, error) {
	all, err := loop.List()
	if err != nil {
		return nil, err
	}
	var out []loop.Info
	for _, l := range all {
		if strings.HasPrefix(l.BackingPath, dir+"/") {
			out = append(out, l)
		}
	}
	return out, nil
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
		d, err := l.Open()
		if errors.Is(err, volume.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		if err := errors.Join(d.Detach(), d.Close()); err != nil {
			return err
		}
	}
	return nil
}
