package node

import (
	"bytes"
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func stackedOf(t *testing.T, v volume.Volume) []loop.Info {
	t.Helper()
	found, err := loop.Find(stackedTag(v.ID))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestReadOnlyBlockRefusesWritesThatAReadOnlyBindLetsThrough(t *testing.T) {
	for _, sector := range []int{4096, 512} {
		b := newBench(t)
		v := b.images.create(t, "v", volume.Format{Mode: volume.ModeBlock, SectorSize: sector}, sizeOf(block))
		b.mustStage(t, v, rwo)
		b.mustPublish(t, b.publishRequest(v, "rw", rwo))
		first := bytes.Repeat([]byte("first..."), 512)
		if err := writeDevice(b.target("rw"), first); err != nil {
			t.Fatal(err)
		}
		b.mustPublish(t, readOnly(b.publishRequest(v, "ro", rwo)))
		b.mustPublish(t, b.publishRequest(v, "rox", rox))
		for _, target := range []string{"ro", "rox"} {
			wantDevice(t, b.target(target), first)
			if err := writeDevice(b.target(target), []byte("broken")); err == nil {
				t.Errorf("%s: a write went through", target)
			}
			wantDevice(t, b.target("rw"), first)
		}
		// Why the stacked device is there: the kernel ignores a read-only bind of a
		// node when it comes to what is behind the node.
		plain := b.target("plain")
		write(t, plain, "")
		for _, flags := range []uintptr{unix.MS_BIND, unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY} {
			if err := unix.Mount(b.target("rw"), plain, "", flags, ""); err != nil {
				t.Fatal(err)
			}
		}
		second := bytes.Repeat([]byte("second.."), 512)
		if err := writeDevice(plain, second); err != nil {
			t.Logf("this kernel honours a read-only bind of a device: %v", err)
		} else {
			wantDevice(t, b.target("rw"), second)
		}
		if err := unix.Unmount(plain, 0); err != nil {
			t.Fatal(err)
		}
		info := stackedOf(t, v)
		if len(info) != 1 || !info[0].ReadOnly || !info[0].DirectIO || info[0].BlockSize != sector || info[0].Autoclear {
			t.Errorf("stacked devices %+v; want one, read-only, direct, %d-byte sectors, that stays", info, sector)
		}
		b.mustEnd(t, v, "rw", "ro", "rox")
	}
}

func TestTheLastReadOnlyTargetTakesTheStackedDeviceAlong(t *testing.T) {
	b := newBench(t)
	v := b.images.create(t, "v", block, sizeOf(block))
	b.mustStage(t, v, rox)
	b.mustPublish(t, b.publishRequest(v, "one", rox))
	b.mustPublish(t, b.publishRequest(v, "two", rox))
	wantDevices(t, stackedTag(v.ID), 1)
	if err := b.unpublish(t.Context(), v, "one"); err != nil {
		t.Fatal(err)
	}
	wantDevices(t, stackedTag(v.ID), 1)
	wantDevice(t, b.target("two"), make([]byte, 4096))
	if err := b.unpublish(t.Context(), v, "two"); err != nil {
		t.Fatal(err)
	}
	wantDevices(t, stackedTag(v.ID), 0)
	b.mustEnd(t, v)
}

func TestAReadOnlyTargetWhoseDeviceWasDetachedIsMadeAnew(t *testing.T) {
	b := newBench(t)
	v := b.images.create(t, "v", block, sizeOf(block))
	b.mustStage(t, v, rwo)
	req := readOnly(b.publishRequest(v, "ro", rwo))
	b.mustPublish(t, req)
	if err := detachStacked(stackedOf(t, v)[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := b.NodePublishVolume(t.Context(), req); errors.Is(err, volume.ErrExists) {
		t.Skip("another process took the number of the device meanwhile: ", err)
	} else if err != nil {
		t.Fatal(err)
	}
	wantDevice(t, b.target("ro"), make([]byte, 4096))
	if err := writeDevice(b.target("ro"), []byte("broken")); err == nil {
		t.Error("a write went through")
	}
	b.mustEnd(t, v, "ro")
}

func TestUnstageSweepsAStackedDeviceThatNoTargetShows(t *testing.T) {
	b := newBench(t)
	v := b.images.create(t, "v", block, sizeOf(block))
	b.mustStage(t, v, rwo)
	b.mustPublish(t, readOnly(b.publishRequest(v, "ro", rwo)))
	if err := unix.Unmount(b.target("ro"), 0); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(b.target("ro")); err != nil {
		t.Fatal(err)
	}
	if len(stackedOf(t, v)) != 1 {
		t.Fatal("the stacked device should be there still")
	}
	b.mustEnd(t, v)
}

func TestWhatAPodWroteToABlockVolumeIsThereAfterUnstage(t *testing.T) {
	b := newBench(t)
	v := b.images.create(t, "v", block, sizeOf(block))
	b.mustStage(t, v, rwo)
	b.mustPublish(t, b.publishRequest(v, "p", rwo))
	content := bytes.Repeat([]byte("content."), 512)
	f, err := os.OpenFile(b.target("p"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(content, 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	b.mustEnd(t, v, "p")
	wantDevice(t, b.images.image(v.ID), content)
}
