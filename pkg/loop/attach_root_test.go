package loop_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/test/roottest"
)

func TestMain(m *testing.M) {
	if image := os.Getenv(attachAndWaitEnv); image != "" {
		attachAndWait(image)
	}
	roottest.Main(m)
}

// newImage makes a sparse file and opens it.
func newImage(t testing.TB, size volume.Bytes) *os.File {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(t.TempDir(), "disk.img"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(int64(size)); err != nil {
		t.Fatal(err)
	}
	return f
}

// newTag is a tag that no other test, and no other process, has.
func newTag(t testing.TB) string {
	return fmt.Sprintf("test-%d-%d", os.Getpid(), time.Now().UnixNano())
}

func attach(t testing.TB, c loop.Config) *loop.Device {
	t.Helper()
	dev, err := loop.Attach(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dev.Detach() }) // most tests have detached it by then
	return dev
}

func TestAttachGivesWhatWasAskedFor(t *testing.T) {
	roottest.Require(t)
	for _, c := range []loop.Config{
		{BlockSize: 4096, DirectIO: true},
		{BlockSize: 4096},
		{BlockSize: 512},
		{BlockSize: 4096, DirectIO: true, ReadOnly: true},
		{BlockSize: 512, NoDiscard: true},
	} {
		t.Run(fmt.Sprintf("%d,dio=%t,ro=%t,nodiscard=%t", c.BlockSize, c.DirectIO, c.ReadOnly, c.NoDiscard), func(t *testing.T) {
			c.Backing, c.Tag = newImage(t, 16*volume.MiB), newTag(t)
			dev := attach(t, c)
			got, err := dev.Info()
			if err != nil {
				t.Fatal(err)
			}
			var image, node unix.Stat_t
			if err := errors.Join(unix.Fstat(int(c.Backing.Fd()), &image), unix.Stat(dev.Path(), &node)); err != nil {
				t.Fatal(err)
			}
			want := loop.Info{
				Index: dev.Index(), Major: unix.Major(node.Rdev), Minor: unix.Minor(node.Rdev),
				Tag: c.Tag, BackingDev: image.Dev, BackingInode: image.Ino, BackingPath: c.Backing.Name(),
				ReadOnly: c.ReadOnly, Autoclear: true, DirectIO: c.DirectIO, BlockSize: c.BlockSize, Size: 16 * volume.MiB,
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("Info (-want +got):\n%s", diff)
			}
			discard := sysfs(t, dev.Index(), "queue/discard_max_bytes")
			if (discard == "0") != c.NoDiscard {
				t.Errorf("discard_max_bytes is %s with NoDiscard %t", discard, c.NoDiscard)
			}
			if size, err := dev.Size(); err != nil || size != 16*volume.MiB {
				t.Errorf("Size = %v, %v", size, err)
			}
		})
	}
}

func sysfs(t testing.TB, index int, attribute string) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/sys/block/loop%d/%s", index, attribute))
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:len(b)-1])
}

func TestAttachRefusesWhatItCannotGive(t *testing.T) {
	roottest.Require(t)
	image := newImage(t, volume.MiB)
	readOnly, err := os.Open(image.Name())
	if err != nil {
		t.Fatal(err)
	}
	defer readOnly.Close()
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	tag := newTag(t)
	for _, c := range []struct {
		name   string
		config loop.Config
		want   error
	}{
		{"no tag", loop.Config{Backing: image, BlockSize: 4096}, volume.ErrInvalid},
		{"long tag", loop.Config{Backing: image, BlockSize: 4096, Tag: string(make([]byte, 64))}, volume.ErrInvalid},
		{"odd block size", loop.Config{Backing: image, BlockSize: 1024, Tag: tag}, volume.ErrInvalid},
		{"no file", loop.Config{BlockSize: 512, Tag: tag}, volume.ErrInvalid},
		{"a directory", loop.Config{Backing: dir, BlockSize: 512, Tag: tag}, volume.ErrInvalid},
		{"a file that cannot be written", loop.Config{Backing: readOnly, BlockSize: 512, Tag: tag}, volume.ErrPrecondition},
	} {
		t.Run(c.name, func(t *testing.T) {
			dev, err := loop.Attach(t.Context(), c.config)
			if err == nil {
				_ = dev.Detach() // the test has failed already
			}
			if !errors.Is(err, c.want) {
				t.Errorf("Attach = %v, want %v", err, c.want)
			}
		})
	}
	expectGone(t, tag)
	if err := image.Truncate(5000); err != nil {
		t.Fatal(err)
	}
	if _, err := loop.Attach(t.Context(), loop.Config{Backing: image, BlockSize: 4096, Tag: tag}); !errors.Is(err, volume.ErrInvalid) {
		t.Errorf("Attach of a file with half a block at its end = %v, want ErrInvalid", err)
	}
}
