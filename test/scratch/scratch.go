// Package scratch makes real filesystems for a test to use and throws them away
// when it ends. It needs root, and skips the test where it cannot have it.
package scratch

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/holdfast-csi/holdfast/pkg/command"
	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/pkg/teardown"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/test/roottest"
)

// Btrfs mounts a new btrfs on this many devices of a size, made with options of
// mkfs.btrfs, and returns its mountpoint.
func Btrfs(t testing.TB, devices int, size volume.Bytes, options ...string) string {
	t.Helper()
	dir, devs := attach(t, devices, size)
	run(t, slices.Concat([]string{"mkfs.btrfs", "--quiet"}, options, devs)...)
	run(t, append([]string{"btrfs", "device", "scan"}, devs...)...) // the kernel must know the others
	return mountAt(t, dir, "btrfs", devs[0])
}

// XFS mounts a new XFS on a device of a size, made with options of mkfs.xfs, and
// returns its mountpoint.
func XFS(t testing.TB, size volume.Bytes, options ...string) string {
	t.Helper()
	dir, devs := attach(t, 1, size)
	run(t, slices.Concat([]string{"mkfs.xfs", "-q", "-K"}, options, devs)...)
	return mountAt(t, dir, "xfs", devs[0])
}

// attach makes sparse images in a directory and attaches them for as long as the
// test runs.
func attach(t testing.TB, devices int, size volume.Bytes) (dir string, devs []string) {
	t.Helper()
	roottest.Require(t)
	dir = t.TempDir()
	t.Cleanup(func() {
		if err := teardown.Below(context.Background(), dir); err != nil {
			t.Error(err)
		}
	})
	for i := range devices {
		img, err := os.Create(filepath.Join(dir, fmt.Sprintf("image-%d", i)))
		must(t, err)
		defer img.Close()
		must(t, img.Truncate(int64(size)))
		dev, err := loop.Attach(t.Context(), loop.Config{Backing: img, Tag: "scratch", BlockSize: 4096})
		must(t, err)
		must(t, dev.SetAutoclear(false)) // nothing holds it until it is mounted
		must(t, dev.Close())
		devs = append(devs, dev.Path())
	}
	return dir, devs
}

func mountAt(t testing.TB, dir, fsType, dev string) string {
	t.Helper()
	tree, err := mount.New(t.Context(), mount.Config{FSType: fsType, Source: dev})
	must(t, err)
	defer tree.Close()
	root, err := mount.OpenRoot(dir)
	must(t, err)
	defer root.Close()
	target, err := root.CreateTarget(filepath.Join(dir, "mnt"), mount.Dir)
	must(t, err)
	defer target.Close()
	must(t, tree.Attach(target))
	return filepath.Join(dir, "mnt")
}

func run(t testing.TB, argv ...string) {
	t.Helper()
	_, err := command.New().Run(t.Context(), argv...)
	must(t, err)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
