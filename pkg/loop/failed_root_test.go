package loop_test

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/test/scratch"
)

// The devices of a pool that failed must not hide those of the others.
func TestADeviceWhoseFilesystemShutDownIsListed(t *testing.T) {
	dir := scratch.XFS(t, 512*volume.MiB)
	f, err := os.Create(filepath.Join(dir, "disk.img"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(1 << 20); err != nil {
		t.Fatal(err)
	}
	dead := attach(t, loop.Config{Backing: f, Tag: newTag(t), BlockSize: 4096})
	alive := loop.Config{Backing: newImage(t, volume.MiB), Tag: newTag(t), BlockSize: 4096}
	attach(t, alive)
	const xfsIocGoingDown = 0x8004587d
	if err := unix.IoctlSetPointerInt(int(f.Fd()), xfsIocGoingDown, 0); err != nil {
		t.Fatal(err)
	}
	if found := find(t, alive.Tag); len(found) != 1 || found[0].Failed {
		t.Errorf("of the other device it says %+v", found)
	}
	all, err := loop.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range all {
		if i.Index == dead.Index() {
			if !i.Failed || i.BackingPath != f.Name() {
				t.Errorf("of the dead one it says %+v", i)
			}
			return
		}
	}
	t.Errorf("loop%d is not listed", dead.Index())
}
