package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func blockSpec(name string) volume.Spec {
	return volume.Spec{Name: name, Size: 64 * volume.MiB, Format: volume.Format{Mode: volume.ModeBlock}}
}

func (b *bench) create(spec volume.Spec) volume.Volume {
	b.t.Helper()
	v, err := b.CreateVolume(b.t.Context(), spec)
	if err != nil {
		b.t.Fatal(err)
	}
	return v
}

// attachedAs is the only loop device of a volume.
func attachedAs(t *testing.T, id volume.ID) loop.Info {
	t.Helper()
	found, err := loop.Find(tagOf(id))
	if err != nil || len(found) != 1 {
		t.Fatalf("%s is on %+v, %v", id, found, err)
	}
	return found[0]
}

// A device that somebody has open survives its detach and is told by the kernel
// to go with its last user. If it is found again before that, it must stay.
func TestABlockDeviceThatIsFoundAgainStays(t *testing.T) {
	onEach(t, testABlockDeviceThatIsFoundAgainStays)
}

func testABlockDeviceThatIsFoundAgainStays(t *testing.T, fsType string) {
	b := newBenchOn(t, fsType, 2*volume.GiB, nil, "default")
	ctx := t.Context()
	v := b.create(blockSpec("a"))
	dev, err := b.Attach(ctx, v.ID)
	if err != nil {
		t.Fatal(err)
	}
	agent, err := os.Open(dev.Path) // somebody on the node who looks at all devices
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(dev.Close(), b.Detach(ctx, v.ID)); err != nil {
		t.Fatal(err)
	}
	if !attachedAs(t, v.ID).Autoclear {
		t.Fatal("the kernel did not tell the device to go, so this test shows nothing")
	}
	if v, err = b.ExpandVolume(ctx, v.ID, 128*volume.MiB, 0); err != nil {
		t.Fatal(err)
	}
	again, err := b.Attach(ctx, v.ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(again.Close(), agent.Close()); err != nil {
		t.Fatal(err)
	}
	l := attachedAs(t, v.ID)
	if l.Autoclear || l.Size != v.Size {
		t.Errorf("the device was found again as %+v", l)
	}
	if err := b.Detach(ctx, v.ID); err != nil {
		t.Fatal(err)
	}
}

// lockImage locks a volume's image as another process would that attaches it.
func (b *bench) lockImage(id volume.ID) (unlock func()) {
	b.t.Helper()
	img, err := os.Open(filepath.Join(b.poolNamed("default").dir.Name(), objectDir(id), dataDir, imageFile))
	if err != nil {
		b.t.Fatal(err)
	}
	if err := unix.Flock(int(img.Fd()), unix.LOCK_EX); err != nil {
		b.t.Fatal(err)
	}
	return func() { img.Close() }
}

func TestAnImageThatStaysLockedIsBusy(t *testing.T) {
	b := newBench(t, 2*volume.GiB, nil, "default")
	v := b.create(blockSpec("a"))
	unlock := b.lockImage(v.ID)
	defer unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := b.Attach(ctx, v.ID); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, volume.ErrBusy) || !strings.Contains(err.Error(), "lslocks") {
		t.Errorf("Attach whose context ended = %v, want DeadlineExceeded that says why", err)
	}
	if testing.Short() {
		t.Skip("waiting for as long as Attach does takes 5 s")
	}
	if _, err := b.Attach(t.Context(), v.ID); !errors.Is(err, volume.ErrBusy) || !strings.Contains(err.Error(), "lslocks") {
		t.Errorf("Attach = %v, want ErrBusy that says what to do", err)
	}
}

func TestAnImageThatIsLockedForAMomentIsAttached(t *testing.T) {
	b := newBench(t, 2*volume.GiB, nil, "default")
	v := b.create(blockSpec("a"))
	time.AfterFunc(100*time.Millisecond, b.lockImage(v.ID))
	dev, err := b.Attach(t.Context(), v.ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(dev.Close(), b.Detach(t.Context(), v.ID)); err != nil {
		t.Error(err)
	}
}

func TestAMissingDeviceIsNotAMissingVolume(t *testing.T) {
	err := deviceGone(fmt.Errorf("look at /dev/loop3: %w", volume.ErrNotFound))
	if !errors.Is(err, volume.ErrBusy) || errors.Is(err, volume.ErrNotFound) || !strings.Contains(err.Error(), "/dev/loop3") {
		t.Errorf("deviceGone = %v, want ErrBusy", err)
	}
	if err := deviceGone(volume.ErrDataLoss); !errors.Is(err, volume.ErrDataLoss) {
		t.Errorf("another error became %v", err)
	}
	if err := deviceGone(nil); err != nil {
		t.Errorf("no error became %v", err)
	}
}

func TestAForeignLoopOnAnImageIsNotIgnored(t *testing.T) {
	onEach(t, testAForeignLoopOnAnImageIsNotIgnored)
}

func testAForeignLoopOnAnImageIsNotIgnored(t *testing.T, fsType string) {
	b := newBenchOn(t, fsType, 2*volume.GiB, nil, "default")
	ctx := t.Context()
	v := b.create(blockSpec("a"))
	path := filepath.Join(b.poolNamed("default").dir.Name(), objectDir(v.ID), dataDir, imageFile)
	img, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	foreign, err := loop.Attach(ctx, loop.Config{Backing: img, Tag: "of an administrator", BlockSize: 4096})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Attach(ctx, v.ID); !errors.Is(err, volume.ErrPrecondition) || !strings.Contains(err.Error(), "of an administrator") {
		t.Errorf("it was attached a second time: %v", err)
	}
	if err := b.DeleteVolume(ctx, v.ID); !errors.Is(err, volume.ErrInUse) {
		t.Errorf("it was deleted below a loop device: %v", err)
	}
	if err := foreign.Close(); err != nil {
		t.Fatal(err)
	}
	// Whoever looks at the machine's loop devices in this instant has it open.
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		err := b.DeleteVolume(ctx, v.ID)
		if err == nil {
			return
		}
		if !errors.Is(err, volume.ErrInUse) || time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

func TestDataThatWasSwappedIsNotAttached(t *testing.T) {
	onEach(t, testDataThatWasSwappedIsNotAttached)
}

func testDataThatWasSwappedIsNotAttached(t *testing.T, fsType string) {
	b := newBenchOn(t, fsType, 2*volume.GiB, nil, "default")
	v, other := b.create(blockSpec("a")), b.create(blockSpec("b"))
	pool := b.poolNamed("default").dir.Name()
	for _, step := range [][2]string{
		{objectDir(v.ID), objectDir(v.ID) + "/kept"},
		{objectDir(other.ID), objectDir(v.ID)},
	} {
		to := filepath.Join(pool, step[1])
		if filepath.Base(to) != "kept" {
			to = filepath.Join(to, dataDir)
		}
		if err := os.Rename(filepath.Join(pool, step[0], dataDir), to); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.Attach(t.Context(), v.ID); !errors.Is(err, volume.ErrDataLoss) {
		t.Errorf("the data of another volume was attached: %v", err)
	}
}
