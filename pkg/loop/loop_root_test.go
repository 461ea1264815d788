package loop_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
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
	t.Cleanup(func() { dev.Detach() })
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
				dev.Detach()
			}
			if !errors.Is(err, c.want) {
				t.Errorf("Attach = %v, want %v", err, c.want)
			}
		})
	}
	if left, err := loop.Find(tag); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if err := image.Truncate(5000); err != nil {
		t.Fatal(err)
	}
	if _, err := loop.Attach(t.Context(), loop.Config{Backing: image, BlockSize: 4096, Tag: tag}); !errors.Is(err, volume.ErrInvalid) {
		t.Errorf("Attach of a file with half a block at its end = %v, want ErrInvalid", err)
	}
}

func TestDeviceVanishesWithItsLastUser(t *testing.T) {
	roottest.Require(t)
	c := loop.Config{Backing: newImage(t, volume.MiB), Tag: newTag(t), BlockSize: 4096}
	dev := attach(t, c)
	second, err := loop.Open(dev.Index())
	if err != nil {
		t.Fatal(err)
	}
	if err := dev.Close(); err != nil {
		t.Fatal(err)
	}
	if found := find(t, c.Tag); len(found) != 1 {
		t.Fatalf("found %v while it is still open", found)
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	if found := find(t, c.Tag); len(found) != 0 {
		t.Errorf("found %v after the last user has closed it", found)
	}
	if _, err := loop.Open(dev.Index()); err != nil && !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("Open of a device that is gone = %v, want ErrNotFound", err)
	}
}

func find(t testing.TB, tag string) []loop.Info {
	t.Helper()
	found, err := loop.Find(tag)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestDeviceWithoutAutoclearStaysUntilDetach(t *testing.T) {
	roottest.Require(t)
	c := loop.Config{Backing: newImage(t, volume.MiB), Tag: newTag(t), BlockSize: 4096, DirectIO: true}
	dev := attach(t, c)
	before, err := dev.Info()
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := dev.SetAutoclear(false); err != nil {
			t.Fatal(err)
		}
	}
	index := dev.Index()
	if err := dev.Close(); err != nil {
		t.Fatal(err)
	}
	before.Autoclear = false
	if diff := cmp.Diff([]loop.Info{before}, find(t, c.Tag)); diff != "" {
		t.Fatalf("SetAutoclear changed more than autoclear, or the device is gone (-want +got):\n%s", diff)
	}
	again, err := loop.Open(index)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Detach(); err != nil {
		t.Fatal(err)
	}
	if found := find(t, c.Tag); len(found) != 0 {
		t.Errorf("found %v after Detach", found)
	}
	if err := again.Close(); err != nil {
		t.Errorf("Close after Detach = %v", err)
	}
}

func TestDetachTwiceSucceeds(t *testing.T) {
	roottest.Require(t)
	c := loop.Config{Backing: newImage(t, volume.MiB), Tag: newTag(t), BlockSize: 4096}
	dev := attach(t, c)
	other, err := loop.Open(dev.Index())
	if err != nil {
		t.Fatal(err)
	}
	if err := dev.Detach(); err != nil {
		t.Fatal(err)
	}
	if found := find(t, c.Tag); len(found) != 1 {
		t.Errorf("found %v although another user has it open", found)
	}
	if err := other.Detach(); err != nil {
		t.Errorf("second Detach = %v", err)
	}
	if found := find(t, c.Tag); len(found) != 0 {
		t.Errorf("found %v after both have let go", found)
	}
}

func TestRefreshShowsTheGrownFile(t *testing.T) {
	roottest.Require(t)
	c := loop.Config{Backing: newImage(t, volume.MiB), Tag: newTag(t), BlockSize: 4096, DirectIO: true}
	dev := attach(t, c)
	stacked := openForReading(t, dev.Path())
	top := attach(t, loop.Config{Backing: stacked, Tag: c.Tag + "-ro", BlockSize: 4096, ReadOnly: true})
	if err := c.Backing.Truncate(int64(3 * volume.MiB)); err != nil {
		t.Fatal(err)
	}
	for _, d := range []*loop.Device{dev, top} {
		if size, err := d.Size(); err != nil || size != volume.MiB {
			t.Errorf("before Refresh %s has %v, %v", d.Path(), size, err)
		}
		if err := d.Refresh(); err != nil {
			t.Fatal(err)
		}
		if size, err := d.Size(); err != nil || size != 3*volume.MiB {
			t.Errorf("after Refresh %s has %v, %v", d.Path(), size, err)
		}
	}
}

func openForReading(t testing.TB, path string) *os.File {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestReadOnlyDeviceOnADeviceRefusesWrites(t *testing.T) {
	roottest.Require(t)
	c := loop.Config{Backing: newImage(t, volume.MiB), Tag: newTag(t), BlockSize: 512}
	dev := attach(t, c)
	top := attach(t, loop.Config{Backing: openForReading(t, dev.Path()), Tag: c.Tag + "-ro", BlockSize: 512, ReadOnly: true})
	if f, err := os.OpenFile(top.Path(), os.O_RDWR, 0); err == nil {
		_, err = f.WriteAt(make([]byte, 512), 0)
		f.Close()
		if err == nil {
			t.Error("a write through the read-only device succeeded")
		}
	}
	info, err := top.Info()
	if err != nil || !info.ReadOnly {
		t.Errorf("Info = %+v, %v", info, err)
	}
}

// The kernel keeps queue settings and BLKROSET across attachments of an index.
func TestSettingsOfAnEarlierUserDoNotStick(t *testing.T) {
	roottest.Require(t)
	image := newImage(t, volume.MiB)
	first := attach(t, loop.Config{Backing: image, Tag: newTag(t), BlockSize: 4096, NoDiscard: true})
	if err := unix.IoctlSetPointerInt(int(first.File().Fd()), unix.BLKROSET, 1); err != nil {
		t.Fatal(err)
	}
	index := first.Index()
	if err := first.Detach(); err != nil {
		t.Fatal(err)
	}
	second := attach(t, loop.Config{Backing: image, Tag: newTag(t), BlockSize: 4096})
	if second.Index() != index {
		t.Skipf("somebody else took loop%d meanwhile", index)
	}
	if got := sysfs(t, index, "queue/discard_max_bytes"); got == "0" {
		t.Error("the device still refuses discards")
	}
	if info, err := second.Info(); err != nil || info.ReadOnly {
		t.Errorf("the device is still read-only: %+v, %v", info, err)
	}
}

func TestSyncReachesTheFile(t *testing.T) {
	roottest.Require(t)
	c := loop.Config{Backing: newImage(t, volume.MiB), Tag: newTag(t), BlockSize: 4096, DirectIO: true}
	dev := attach(t, c)
	w, err := os.OpenFile(dev.Path(), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := w.WriteAt([]byte("written, not synced"), 8192); err != nil {
		t.Fatal(err)
	}
	if err := dev.Sync(); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 19)
	if _, err := c.Backing.ReadAt(got, 8192); err != nil || string(got) != "written, not synced" {
		t.Errorf("the file has %q, %v", got, err)
	}
}

func TestManyAttachAtOnce(t *testing.T) {
	roottest.Require(t)
	const callers = 16
	before := map[int]bool{}
	for _, i := range list(t) {
		before[i.Index] = true
	}
	devices := make([]*loop.Device, callers)
	var group sync.WaitGroup
	for i := range callers {
		image := newImage(t, volume.MiB)
		group.Go(func() {
			dev, err := loop.Attach(t.Context(), loop.Config{Backing: image, Tag: newTag(t), BlockSize: 4096, DirectIO: true})
			if err != nil {
				t.Error(err)
				return
			}
			devices[i] = dev
			loop.List()
		})
	}
	group.Wait()
	seen := map[int]bool{}
	for _, dev := range devices {
		if dev == nil {
			continue
		}
		if seen[dev.Index()] || before[dev.Index()] {
			t.Errorf("%s was given out twice", dev.Path())
		}
		seen[dev.Index()] = true
		if err := dev.Detach(); err != nil {
			t.Error(err)
		}
	}
}

func list(t testing.TB) []loop.Info {
	t.Helper()
	infos, err := loop.List()
	if err != nil {
		t.Fatal(err)
	}
	return infos
}

func TestListIsInOrderOfIndex(t *testing.T) {
	roottest.Require(t)
	tag := newTag(t)
	for range 12 {
		attach(t, loop.Config{Backing: newImage(t, volume.MiB), Tag: tag, BlockSize: 512})
	}
	infos := find(t, tag)
	if len(infos) != 12 {
		t.Errorf("found %d of 12", len(infos))
	}
	for i := 1; i < len(infos); i++ {
		if infos[i-1].Index >= infos[i].Index {
			t.Errorf("loop%d comes before loop%d", infos[i-1].Index, infos[i].Index)
		}
	}
}

const attachAndWaitEnv = "HOLDFAST_LOOP_TEST_ATTACH"

// attachAndWait is the life of a process that is killed after it attached a
// device.
func attachAndWait(image string) {
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		panic(err)
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals)
	dev, err := loop.Attach(context.Background(), loop.Config{Backing: f, Tag: filepath.Base(image), BlockSize: 4096})
	if err != nil {
		panic(err)
	}
	fmt.Println(dev.Index())
	<-signals
	runtime.KeepAlive(dev)
	os.Exit(0)
}

func TestProcessKilledAfterAttachLeavesNoDevice(t *testing.T) {
	roottest.Require(t)
	for range 3 {
		image := filepath.Join(t.TempDir(), newTag(t))
		if err := os.WriteFile(image, make([]byte, volume.MiB), 0o600); err != nil {
			t.Fatal(err)
		}
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		child, err := os.StartProcess("/proc/self/exe", os.Args[:1], &os.ProcAttr{
			Env:   append(os.Environ(), attachAndWaitEnv+"="+image),
			Files: []*os.File{nil, w, os.Stderr},
		})
		w.Close()
		if err != nil {
			t.Fatal(err)
		}
		var index int
		if _, err := fmt.Fscan(r, &index); err != nil {
			t.Fatal(err)
		}
		if found := find(t, filepath.Base(image)); len(found) != 1 || found[0].Index != index {
			t.Errorf("the child attached loop%s, found %v", strconv.Itoa(index), found)
		}
		if err := child.Kill(); err != nil {
			t.Fatal(err)
		}
		if _, err := child.Wait(); err != nil {
			t.Fatal(err)
		}
		if found := find(t, filepath.Base(image)); len(found) != 0 {
			t.Errorf("the killed child left %v", found)
		}
	}
}
