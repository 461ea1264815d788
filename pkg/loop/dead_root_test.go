package loop_test

import (
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/command"
	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/test/roottest"
)

// A dead disk below one device must not hide all the others.
func TestADeviceOnADeadFilesystemIsListedAndLetGo(t *testing.T) {
	roottest.Require(t)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	create := func(path string, size int64) *os.File {
		t.Helper()
		f, err := os.Create(path)
		must(err)
		t.Cleanup(func() { f.Close() })
		must(f.Truncate(size))
		return f
	}
	dir := t.TempDir()
	mnt := filepath.Join(dir, "mnt")
	must(os.Mkdir(mnt, 0o700))
	below, err := loop.Attach(t.Context(), loop.Config{Backing: create(filepath.Join(dir, "below.img"), 300<<20), Tag: "dead-test-below", BlockSize: 4096})
	must(err)
	defer below.Close()
	_, err = command.New().Run(t.Context(), "mkfs.xfs", "-q", below.Path())
	must(err)
	must(unix.Mount(below.Path(), mnt, "xfs", 0, ""))
	defer func() {
		if err := unix.Unmount(mnt, 0); err != nil {
			t.Error(err)
		}
	}()
	img := create(filepath.Join(mnt, "disk.img"), 1<<20)
	dev, err := loop.Attach(t.Context(), loop.Config{Backing: img, Tag: "dead-test", BlockSize: 4096})
	must(err)
	defer dev.Close()
	must(img.Close())

	var before, after loop.Index
	if found, err := before.Find("dead-test"); err != nil || len(found) != 1 {
		t.Errorf("while it lives: %v, %v", found, err)
	}
	root, err := os.Open(mnt)
	must(err)
	how := uint32(2) // XFS_FSOP_GOING_FLAGS_NOLOGFLUSH
	const goingDown = 0x8004587d
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, root.Fd(), goingDown, uintptr(unsafe.Pointer(&how))); errno != 0 {
		t.Fatal(errno)
	}
	must(root.Close())

	info, err := dev.Info()
	if err != nil || !info.Dead || info.Tag != "" || !info.Autoclear || filepath.Base(info.BackingPath) != "disk.img" {
		t.Errorf("%+v, %v", info, err)
	}
	all, err := loop.List()
	must(err)
	listed := false
	for _, l := range all {
		listed = listed || l.Index == dev.Index() && l.Dead
	}
	if !listed {
		t.Error("it is not listed")
	}
	if found, err := loop.Find("dead-test-below"); err != nil || len(found) != 1 {
		t.Errorf("another device is hidden by it: %v, %v", found, err)
	}
	if found, err := loop.Find("dead-test"); err != nil || len(found) != 0 {
		t.Errorf("it has a tag: %v, %v", found, err)
	}
	for name, x := range map[string]*loop.Index{"one that knew it alive": &before, "one that did not": &after} {
		if found, err := x.Find("dead-test"); err != nil || len(found) != 0 {
			t.Errorf("%s finds it by its tag: %v, %v", name, found, err)
		}
		if d, err := x.Open(loop.Wanted{Tag: "dead-test"}); err != nil || d != nil {
			t.Errorf("%s opens it by its tag: %v, %v", name, d, err)
		}
		if found, err := x.FindAny(loop.Wanted{DeadPath: "/mnt/disk.img"}); err != nil || len(found) != 1 || found[0].Index != dev.Index() {
			t.Errorf("%s does not find it by its path: %v, %v", name, found, err)
		}
		if found, err := x.FindAny(loop.Wanted{DeadPath: "/below.img"}); err != nil || len(found) != 0 {
			t.Errorf("%s takes one that lives for dead: %v, %v", name, found, err)
		}
	}
	again, err := info.Open()
	must(err)
	must(dev.Close())
	must(again.Detach())
	all, err = loop.List()
	must(err)
	for _, l := range all {
		if l.Index == dev.Index() && l.Dead {
			t.Error("it is still there")
		}
	}
}
