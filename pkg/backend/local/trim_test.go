package local

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/pkg/workload"
)

func (b *bench) free() volume.Bytes {
	b.t.Helper()
	p := b.poolNamed("default")
	if err := p.store.commit(); err != nil {
		b.t.Fatal(err)
	}
	sp, err := p.store.space()
	if err != nil {
		b.t.Fatal(err)
	}
	return sp.Free
}

// deleteInside leaves a volume with a file, and a hole of a size where others were.
func deleteInside(t *testing.T, dir string, size volume.Bytes) {
	t.Helper()
	for _, name := range []string{"gone", "stays"} {
		if err := workload.Write(filepath.Join(dir, name), 7, size, true); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(filepath.Join(dir, "gone")); err != nil {
		t.Fatal(err)
	}
}

func TestWhatIsDeletedInsideAVolumeIsGivenBack(t *testing.T) {
	onEach(t, func(t *testing.T, pool string) {
		g := newGuarded(t, pool, 2*volume.GiB, 2, nil)
		const size = 200 * volume.MiB
		for _, fsType := range []volume.FSType{volume.Ext4, volume.XFS} {
			v := g.create(filesystemSpec(string(fsType), fsType, volume.GiB))
			dir := g.mountAt(v)
			deleteInside(t, dir, size)
			before := g.free()
			var freed volume.Bytes
			// XFS frees what was removed in the background: a trim may come too early for it.
			within(t, soon, "the space is free", func() bool {
				if err := g.poolNamed("default").trimAll(t.Context()); err != nil {
					t.Fatal(err)
				}
				freed = g.free() - before
				return freed > size*9/10
			})
			t.Logf("%s: %s were deleted, %s are free again", fsType, size, freed)
			if err := workload.Verify(filepath.Join(dir, "stays"), 7, size); err != nil {
				t.Error(err)
			}
			g.unmount(v.ID, dir)
		}
		st := g.poolNamed("default").tally().trimmed.Load()
		if volume.Bytes(st) < 2*size {
			t.Errorf("counted %d bytes", st)
		}
	})
}

// TestAFullPoolTakesBackWhatIsDeletedInsideItsVolumes: the writers go on although
// nobody deletes anything.
func TestAFullPoolTakesBackWhatIsDeletedInsideItsVolumes(t *testing.T) {
	onEach(t, func(t *testing.T, pool string) {
		g := newGuarded(t, pool, 1280*volume.MiB, 10, nil)
		g.stop()
		g.cfg.TrimInterval = time.Hour
		g.reopen()
		g.start()
		idle := g.create(filesystemSpec("idle", volume.Ext4, volume.GiB))
		quiet := g.mountAt(idle)
		deleteInside(t, quiet, 200*volume.MiB)
		v := g.create(filesystemSpec("v", volume.XFS, 6*volume.GiB))
		dir := g.mountAt(v)
		f := startFill(t, dir, workload.Direct)
		g.waitFrozen(f)
		g.mustWait(f)
		within(t, soon, "what was deleted is given back", func() bool {
			return volume.Bytes(g.poolNamed("default").tally().trimmed.Load()) >= 200*volume.MiB
		})
		if err := workload.Verify(filepath.Join(quiet, "stays"), 7, 200*volume.MiB); err != nil {
			t.Error(err)
		}
		g.unmount(idle.ID, quiet)
		g.remove(idle.ID)
		if files, err := f.Stop(); err != nil {
			t.Errorf("after %d files: %v", files, err)
		}
		g.unmount(v.ID, dir)
	})
}

// blkZeroOut is BLKZEROOUT of include/uapi/linux/fs.h.
const blkZeroOut = 0x127f

// TestAVolumeIsZeroedInPlaceOnAFullPool: a pod may zero what is its own.
func TestAVolumeIsZeroedInPlaceOnAFullPool(t *testing.T) {
	onEach(t, func(t *testing.T, pool string) {
		b := newBenchOn(t, pool, volume.GiB, nil, "default")
		v := b.create(volume.Spec{Name: "v", Size: 128 * volume.MiB, Format: volume.Format{Mode: volume.ModeBlock, SectorSize: 4096}})
		dev, err := b.Attach(t.Context(), v.ID)
		if err != nil {
			t.Fatal(err)
		}
		if err := workload.Write(dev.Path, 1, v.Size, true); err != nil {
			t.Fatal(err)
		}
		fillData(t, b.poolNamed("default"))
		f, err := os.OpenFile(dev.Path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		part := [2]uint64{0, uint64(v.Size / 2)}
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), blkZeroOut, uintptr(unsafe.Pointer(&part))); errno != 0 {
			t.Errorf("zero a volume that has all its blocks: %v", errno)
		}
		if err := f.Sync(); err != nil {
			t.Error(err)
		}
		buf := make([]byte, 4096)
		if _, err := f.ReadAt(buf, int64(v.Size/4)); err != nil || buf[0] != 0 {
			t.Errorf("it has %d there, %v", buf[0], err)
		}
		if err := errors.Join(f.Close(), dev.Close(), b.Detach(t.Context(), v.ID)); err != nil {
			t.Error(err)
		}
	})
}

// fillData takes all data space of a pool.
func fillData(t *testing.T, p *pool) {
	t.Helper()
	f, err := os.Create(filepath.Join(p.dir.Name(), "foreign"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	at := int64(0)
	for size := int64(64 << 20); size >= 4096; {
		if err := unix.Fallocate(int(f.Fd()), 0, at, size); err == nil {
			at += size
		} else {
			size /= 4
		}
	}
}

func TestATrimThatIsAskedForTooSoonIsDoneAsSoonAsItMay(t *testing.T) {
	now := time.Now()
	if got := earlier(now.Add(time.Hour), now.Add(trimRest)); !got.Equal(now.Add(trimRest)) {
		t.Errorf("it is done after %s", got.Sub(now))
	}
	if got := earlier(now, now.Add(trimRest)); !got.Equal(now) {
		t.Errorf("the next round is put off to %s", got.Sub(now))
	}
}
