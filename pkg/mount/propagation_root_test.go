package mount_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/test/roottest"
)

func TestContainingFindsTheTopMountAndItsPropagation(t *testing.T) {
	roottest.Require(t)
	dir := tempDir(t)
	root := openRoot(t, dir)
	outer := filepath.Join(dir, "outer")
	newTmpfs(t, root, outer)
	t.Cleanup(func() {
		if err := root.Unmount(context.Background(), outer); err != nil {
			t.Error(err)
		}
	})
	below := filepath.Join(outer, "a/b")
	if err := os.MkdirAll(below, 0o755); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(below, link); err != nil {
		t.Fatal(err)
	}
	for flag, want := range map[uintptr]string{unix.MS_PRIVATE: "private", unix.MS_SHARED: "shared"} {
		if err := unix.Mount("", outer, "", flag, ""); err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{outer, below, link} {
			on, err := mount.Containing(path)
			if err != nil || on.Path != outer || on.Propagation() != want {
				t.Errorf("%s: %+v is %s, %v; want %s on %s", path, on, on.Propagation(), err, want, outer)
			}
		}
	}
	// A mount on top hides the one below it.
	if err := unix.Mount("", outer, "", unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	newTmpfs(t, root, outer)
	top := layers(t, outer)[1]
	if on, err := mount.Containing(outer); err != nil || on.ID != top.ID {
		t.Errorf("%+v, %v; want mount %d", on, err, top.ID)
	}
	if _, err := mount.Containing(filepath.Join(dir, "nothing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}
