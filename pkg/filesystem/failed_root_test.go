package filesystem_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/filesystem"
	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/test/roottest"
)

// shutdown stops a filesystem as a dead disk does, without writing its log.
func shutdown(t *testing.T, root *os.File) {
	t.Helper()
	const (
		goingDown = 0x8004587d // _IOR('X', 125, __u32)
		noLog     = 2
	)
	how := uint32(noLog)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, root.Fd(), goingDown, uintptr(unsafe.Pointer(&how))); errno != 0 {
		t.Fatal(errno)
	}
}

func TestFilesystemThatFailedIsSeenAndUnmounted(t *testing.T) {
	roottest.Require(t)
	everyType(t, func(t *testing.T, fs volume.FSType) {
		dev := attach(t, newFilesystem(t, fs, 300*volume.MiB))
		m := mountDevice(t, dev.Path(), fs)
		fill(t, m.dir+"/file", volume.MiB)
		if err := filesystem.Sync(m.root); err != nil {
			t.Fatal(err)
		}
		if err := filesystem.Alive(m.root); err != nil {
			t.Error(err)
		}
		shutdown(t, m.root)
		if err := os.WriteFile(m.dir+"/new", nil, 0o600); err == nil {
			t.Error("a write succeeded")
		}
		infos, err := mount.List()
		if err != nil {
			t.Fatal(err)
		}
		got := mount.At(infos, m.dir)
		if len(got) != 1 {
			t.Fatalf("mounted %v", got)
		}
		if got[0].Failed() != "" && !got[0].ReadOnly() {
			t.Error("it counts as writable")
		}
		if err := filesystem.Alive(m.root); !errors.Is(err, volume.ErrPrecondition) {
			t.Errorf("Alive = %v, want ErrPrecondition", err)
		}
		if err := filesystem.GrowOnline(m.root, fs, volume.GiB); err == nil {
			t.Error("it grew")
		}
		m.root.Close()
		targets, err := mount.OpenRoot(filepath.Dir(m.dir))
		if err != nil {
			t.Fatal(err)
		}
		defer targets.Close()
		if err := targets.RemoveTarget(context.Background(), m.dir); err != nil {
			t.Fatal(err)
		}
		again := mountDevice(t, dev.Path(), fs)
		if st, err := os.Stat(again.dir + "/file"); err != nil || st.Size() != int64(volume.MiB) {
			t.Errorf("what was synced is gone: %v", err)
		}
	})
}

func TestZeroedVolumeIsRefusedByProbeAndMount(t *testing.T) {
	roottest.Require(t)
	everyType(t, func(t *testing.T, fs volume.FSType) {
		path := newFilesystem(t, fs, 300*volume.MiB)
		overwrite(t, path, 0, make([]byte, 64<<10))
		dev := attach(t, path)
		if _, err := filesystem.Probe(dev.File()); !errors.Is(err, volume.ErrDataLoss) {
			t.Errorf("Probe = %v, want ErrDataLoss", err)
		}
		_, err := mount.New(t.Context(), mount.Config{FSType: string(fs), Source: dev.Path()})
		if !errors.Is(err, volume.ErrPrecondition) {
			t.Errorf("New = %v, want ErrPrecondition", err)
		}
	})
}
