// Package scratch makes real filesystems for a test to use and throws them away
// when it ends. It needs root, and skips the test where it cannot have it.
package scratch

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
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
	roottest.Require(t)
	dir := t.TempDir()
	t.Cleanup(func() {
		if err := teardown.Below(context.Background(), dir); err != nil {
			t.Error(err)
		}
	})
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	argv := append([]string{"mkfs.btrfs", "--quiet"}, options...)
	first := ""
	for i := range devices {
		img, err := os.Create(filepath.Join(dir, fmt.Sprintf("image-%d", i)))
		must(err)
		defer img.Close()
		must(img.Truncate(int64(size)))
		dev, err := loop.Attach(t.Context(), loop.Config{Backing: img, Tag: "scratch", BlockSize: 4096})
		must(err)
		defer dev.Close() // the mount keeps it
		argv = append(argv, dev.Path())
		if first == "" {
			first = dev.Path()
		}
	}
	runner := command.New()
	_, err := runner.Run(t.Context(), argv...)
	must(err)
	_, err = runner.Run(t.Context(), "btrfs", "device", "scan") // the kernel must know the others
	must(err)
	tree, err := mount.New(t.Context(), mount.Config{FSType: "btrfs", Source: first})
	must(err)
	defer tree.Close()
	root, err := mount.OpenRoot(dir)
	must(err)
	defer root.Close()
	target, err := root.CreateTarget(filepath.Join(dir, "mnt"), mount.Dir)
	must(err)
	defer target.Close()
	must(tree.Attach(target))
	return filepath.Join(dir, "mnt")
}
