package loop_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/test/roottest"
)

// bareDev gives the test a /dev as a container may have it: with the nodes that
// somebody put there, and none that the kernel makes.
func bareDev(t *testing.T) {
	t.Helper()
	var control unix.Stat_t
	if err := unix.Stat("/dev/loop-control", &control); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("bare", "/dev", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount("/dev", 0); err != nil {
			t.Error(err)
		}
	})
	if err := unix.Mknod("/dev/loop-control", unix.S_IFCHR|0o600, int(control.Rdev)); err != nil {
		t.Fatal(err)
	}
}

func TestMissingNodeIsMade(t *testing.T) {
	roottest.Require(t)
	bareDev(t)
	c := loop.Config{Backing: newImage(t, volume.MiB), Tag: newTag(t), BlockSize: 4096}
	dev, err := loop.Attach(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := dev.Detach(); err != nil {
			t.Error(err)
		}
	})
	if err := os.Remove(dev.Path()); err != nil {
		t.Fatal(err)
	}
	if found := find(t, c.Tag); len(found) != 1 {
		t.Errorf("found %v", found)
	}
	var st unix.Stat_t
	if err := unix.Stat(dev.Path(), &st); err != nil || st.Mode != unix.S_IFBLK|0o600 {
		t.Errorf("the node has mode %o, %v", st.Mode, err)
	}
}

func TestNodeOfAnotherDeviceIsNotTouched(t *testing.T) {
	roottest.Require(t)
	bareDev(t)
	c := loop.Config{Backing: newImage(t, volume.MiB), Tag: newTag(t), BlockSize: 4096}
	dev, err := loop.Attach(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := dev.Detach(); err != nil {
			t.Error(err)
		}
	})
	for name, make := range map[string]func() error{
		"a file":           func() error { return os.WriteFile(dev.Path(), []byte("x"), 0o600) },
		"/dev/zero":        func() error { return unix.Mknod(dev.Path(), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5))) },
		"of no device":     func() error { return unix.Mknod(dev.Path(), unix.S_IFBLK|0o600, int(unix.Mkdev(60, 0))) },
		"a link to itself": func() error { return os.Symlink(dev.Path(), dev.Path()) },
	} {
		if err := errors.Join(os.Remove(dev.Path()), make()); err != nil {
			t.Fatal(err)
		}
		got, err := loop.Open(dev.Index())
		if err == nil {
			got.Close()
			t.Errorf("%s: Open succeeded", name)
		}
		if name != "a link to itself" && !errors.Is(err, volume.ErrPrecondition) {
			t.Errorf("%s: Open = %v, want ErrPrecondition", name, err)
		}
	}
	if b, err := os.ReadFile(c.Backing.Name()); err != nil || len(b) != int(volume.MiB) {
		t.Errorf("the backing file has %d bytes, %v", len(b), err)
	}
}

// "Not there" would be taken for "not attached".
func TestADeviceWhoseNodeCannotBeMadeIsNotLeftOut(t *testing.T) {
	roottest.Require(t)
	c := loop.Config{Backing: newImage(t, volume.MiB), Tag: newTag(t), BlockSize: 4096}
	dev, err := loop.Attach(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := dev.Detach(); err != nil {
			t.Error(err)
		}
	})
	gone := filepath.Join(t.TempDir(), "dev")
	if err := os.Mkdir(gone, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(gone, "/dev", "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount("/dev", 0); err != nil {
			t.Error(err)
		}
	})
	if err := os.Remove(gone); err != nil {
		t.Fatal(err)
	}
	if found, err := loop.Find(c.Tag); err == nil {
		t.Errorf("found %v, and no error", found)
	}
}

func TestOpenOfNothingIsNotFound(t *testing.T) {
	roottest.Require(t)
	for _, index := range []int{-1, 1 << 20} {
		if _, err := loop.Open(index); !errors.Is(err, volume.ErrNotFound) {
			t.Errorf("Open(%d) = %v, want ErrNotFound", index, err)
		}
	}
}
