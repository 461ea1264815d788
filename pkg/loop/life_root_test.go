package loop_test

import (
	"errors"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/test/roottest"
)

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
	expectGone(t, c.Tag)
}

// expectGone waits for a device to vanish: another process of the machine may
// have it open for an instant, to look at it.
func expectGone(t testing.TB, tag string) {
	t.Helper()
	var found []loop.Info
	for range 200 {
		if found = find(t, tag); len(found) == 0 {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Errorf("still there: %v", found)
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
	expectGone(t, c.Tag)
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
	expectGone(t, c.Tag)
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
			if _, err := loop.List(); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	seen := map[int]bool{}
	for _, dev := range devices {
		if dev == nil {
			continue
		}
		if seen[dev.Index()] {
			t.Errorf("%s was given out twice", dev.Path())
		}
		seen[dev.Index()] = true
		if err := dev.Detach(); err != nil {
			t.Error(err)
		}
	}
}

func TestInfoOpensOnlyTheDeviceThatItDescribes(t *testing.T) {
	roottest.Require(t)
	c := loop.Config{Backing: newImage(t, volume.MiB), Tag: newTag(t), BlockSize: 4096}
	attach(t, c)
	info := find(t, c.Tag)[0]
	dev, err := info.Open()
	if err != nil {
		t.Fatal(err)
	}
	dev.Close()
	for _, change := range []func(*loop.Info){
		func(i *loop.Info) { i.Tag += "x" },
		func(i *loop.Info) { i.BackingInode++ },
		func(i *loop.Info) { i.BackingDev++ },
	} {
		other := info
		change(&other)
		if dev, err := other.Open(); !errors.Is(err, volume.ErrNotFound) {
			t.Errorf("Open = %v, %v, want ErrNotFound", dev, err)
		}
	}
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

func BenchmarkFindAmongMany(b *testing.B) {
	roottest.Require(b)
	tag := newTag(b)
	for range 50 {
		attach(b, loop.Config{Backing: newImage(b, volume.MiB), Tag: tag, BlockSize: 4096})
	}
	for b.Loop() {
		if _, err := loop.Find(tag + "-other"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAttachAndDetach(b *testing.B) {
	roottest.Require(b)
	image, tag := newImage(b, volume.MiB), newTag(b)
	for b.Loop() {
		dev, err := loop.Attach(b.Context(), loop.Config{Backing: image, Tag: tag, BlockSize: 4096, DirectIO: true})
		if err != nil {
			b.Fatal(err)
		}
		if err := dev.Detach(); err != nil {
			b.Fatal(err)
		}
	}
}
