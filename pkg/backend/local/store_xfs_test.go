package local

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/pkg/xfs"
	"github.com/holdfast-csi/holdfast/test/roottest"
	"github.com/holdfast-csi/holdfast/test/scratch"
)

func TestXFSWithoutReflinkIsRefused(t *testing.T) {
	mnt := scratch.XFS(t, volume.GiB, "-m", "reflink=0")
	err := initPool(t, t.TempDir(), filepath.Join(mnt, "pool"))
	if !errors.Is(err, volume.ErrPrecondition) || !strings.Contains(err.Error(), "mkfs.xfs -m reflink=1") {
		t.Errorf("a pool whose snapshots would be whole copies: %v", err)
	}
}

func TestADirectoryOnXFSBecomesAPool(t *testing.T) {
	dir, state := filepath.Join(scratch.XFS(t, volume.GiB), "pool"), t.TempDir()
	if err := initPool(t, state, dir); err != nil {
		t.Fatal(err)
	}
	status, err := Inspect(t.Context(), Inspection{StateDir: state})
	if err != nil || len(status) != 1 || !status[0].Available || status[0].Room == 0 {
		t.Errorf("%+v, %v", status, err)
	}
}

func TestAPoolKeepsItsFilesystem(t *testing.T) {
	roottest.Require(t)
	b := newBenchOn(t, FilesystemXFS, volume.GiB, nil, "default")
	id := b.Pools()[0].ID
	var h heard
	b.cfg.Notice = h.notice
	b.cfg.Pools[0].Filesystem = FilesystemBtrfs
	b.reopen()
	if b.poolNamed("default").id != id {
		t.Error("it is another pool")
	}
	if said := h.about(FilesystemKept); len(said) != 1 || !strings.Contains(said[0], "is on xfs, --pool-filesystem says btrfs") {
		t.Errorf("it said %q", said)
	}
	b.cfg.Pools[0].Filesystem = ""
	b.reopen()
	if said := h.about(FilesystemKept); len(said) != 1 {
		t.Errorf("of what nobody asked for it said %q", said)
	}
}

func TestAnUnknownFilesystemIsRefused(t *testing.T) {
	_, err := New(Config{StateDir: t.TempDir(), Pools: []PoolConfig{{Name: "default", Dir: t.TempDir(), Filesystem: "zfs"}}})
	if !errors.Is(err, volume.ErrInvalid) || !strings.Contains(err.Error(), `"zfs"`) {
		t.Errorf("New = %v", err)
	}
}

func TestAnImageWithoutAFilesystemIsNotMountedAndNotMade(t *testing.T) {
	roottest.Require(t)
	b := newBenchOn(t, FilesystemXFS, volume.GiB, nil, "default")
	restore, err := b.takeAway("default")
	if err != nil {
		t.Fatal(err)
	}
	img, err := os.OpenFile(filepath.Join(b.cfg.Pools[0].Dir, ImageFile)+".away", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	sector := make([]byte, 4096)
	if _, err := img.ReadAt(sector, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := img.WriteAt(make([]byte, 4096), 0); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(img.Name(), strings.TrimSuffix(img.Name(), ".away")); err != nil {
		t.Fatal(err)
	}
	b.slots[0].tryOpen(t.Context())
	if p := b.Pools()[0]; p.Available || !strings.Contains(p.Reason, "nothing was made") {
		t.Errorf("%+v", p)
	}
	if _, err := img.WriteAt(sector, 0); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(strings.TrimSuffix(img.Name(), ".away"), img.Name()); err != nil {
		t.Fatal(err)
	}
	restore()
}

// imagePath is where the image of an object is.
func (b *bench) imagePath(id volume.ID) string {
	b.t.Helper()
	return filepath.Join(b.poolNamed("default").dir.Name(), objectDir(id), dataDir, imageFile)
}

// openImage opens the image of an object until the test ends. What is open is not
// freed.
func (b *bench) openImage(id volume.ID, flags int) *os.File {
	b.t.Helper()
	f, err := os.OpenFile(b.imagePath(id), flags, 0)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { f.Close() })
	return f
}

func (b *bench) snapshotOf(of volume.ID, name string) volume.Snapshot {
	b.t.Helper()
	s, err := b.CreateSnapshot(b.t.Context(), volume.SnapshotSpec{Name: name, Source: of})
	if err != nil {
		b.t.Fatal(err)
	}
	return s
}

func TestNobodyWritesToASnapshot(t *testing.T) {
	onEach(t, func(t *testing.T, fsType string) {
		b := newBenchOn(t, fsType, 2*volume.GiB, nil, "default")
		v := b.create(blockSpec("a"))
		s := b.snapshotOf(v.ID, "s")
		if f, err := os.OpenFile(b.imagePath(s.ID), os.O_RDWR, 0); err == nil {
			f.Close()
			t.Error("root opened it for writing")
		}
		if err := os.Remove(b.imagePath(s.ID)); err == nil {
			t.Error("root removed its image")
		}
		c := b.create(volume.Spec{Name: "c", Source: volume.Source{Snapshot: s.ID}, Format: volume.Format{Mode: volume.ModeBlock}})
		b.openImage(c.ID, os.O_RDWR)
		if err := b.DeleteSnapshot(t.Context(), s.ID); err != nil {
			t.Error(err)
		}
		if left := b.leftovers(); len(left) > 0 {
			t.Error(left)
		}
	})
}

func TestAnImageThatWasCopiedBackIsNotAttached(t *testing.T) {
	roottest.Require(t)
	b := newBenchOn(t, FilesystemXFS, 2*volume.GiB, nil, "default")
	v := b.create(blockSpec("a"))
	img := b.openImage(v.ID, os.O_RDWR)
	data, err := os.ReadFile(img.Name())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(img.Name()), os.WriteFile(img.Name(), data, 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Attach(t.Context(), v.ID); !errors.Is(err, volume.ErrDataLoss) {
		t.Errorf("another file was attached: %v", err)
	}
}

// fragment makes a volume whose image has this many extents: snapshotted, and then
// half overwritten.
func (b *bench) fragment(name string, extents int) (volume.Volume, *os.File) {
	b.t.Helper()
	v := b.create(volume.Spec{Name: name, Size: volume.Bytes(extents) * 4096, Format: volume.Format{Mode: volume.ModeBlock}})
	img := b.openImage(v.ID, os.O_RDWR)
	write := func(p []byte, at int64) {
		if _, err := img.WriteAt(p, at); err != nil {
			b.t.Fatal(err)
		}
	}
	write(bytes.Repeat([]byte{1}, int(v.Size)), 0)
	s := b.snapshotOf(v.ID, name+"-first")
	for i := range extents / 2 {
		write(bytes.Repeat([]byte{2}, 4096), int64(i)*8192)
	}
	if err := img.Sync(); err != nil {
		b.t.Fatal(err)
	}
	if err := b.DeleteSnapshot(b.t.Context(), s.ID); err != nil {
		b.t.Fatal(err)
	}
	if err := b.poolNamed("default").emptyTrash(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
	return v, img
}

// A copy in two steps is the volume at one instant all the same: of a number that
// is written at both its ends, first at the one, it never has more at the other.
func TestACopyOfManyExtentsIsOfOneInstant(t *testing.T) {
	roottest.Require(t)
	b := newBenchOn(t, FilesystemXFS, 2*volume.GiB, nil, "default")
	v, img := b.fragment("a", 16384)
	if n, err := xfs.Extents(img); err != nil || n < 4*prepareFrom {
		t.Fatalf("the volume has %d extents: nothing is prepared: %v", n, err)
	}
	far := int64(v.Size) - 4096
	stop, stopped := make(chan struct{}), make(chan error)
	go func() {
		for n := uint64(1); ; n++ {
			select {
			case <-stop:
				stopped <- nil
				return
			default:
			}
			number := binary.LittleEndian.AppendUint64(nil, n)
			for _, at := range []int64{0, far} {
				if _, err := img.WriteAt(number, at); err != nil {
					stopped <- err
					return
				}
			}
		}
	}()
	number := func(f *os.File, at int64) uint64 {
		buf := make([]byte, 8)
		if _, err := f.ReadAt(buf, at); err != nil {
			t.Fatal(err)
		}
		return binary.LittleEndian.Uint64(buf)
	}
	var last uint64
	for _, name := range []string{"s1", "s2", "s3"} {
		s := b.openImage(b.snapshotOf(v.ID, name).ID, os.O_RDONLY)
		near, far := number(s, 0), number(s, far)
		if far > near || near > far+1 || near <= last {
			t.Errorf("snapshot %s has %d at one end and %d at the other, the one before had %d", name, near, far, last)
		}
		last = near
		got, err := os.ReadFile(s.Name())
		if err != nil {
			t.Fatal(err)
		}
		for i := 1; i < len(got)/4096-1; i++ {
			if want := byte(2 - i%2); got[i*4096] != want || got[i*4096+4095] != want {
				t.Fatalf("snapshot %s: block %d is %d", name, i, got[i*4096])
			}
		}
	}
	close(stop)
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestPreparingACopyEndsWithItsCaller(t *testing.T) {
	roottest.Require(t)
	b := newBenchOn(t, FilesystemXFS, 2*volume.GiB, nil, "default")
	v, _ := b.fragment("a", 16384)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
	defer cancel()
	if _, err := b.CreateSnapshot(ctx, volume.SnapshotSpec{Name: "s", Source: v.ID}); err == nil {
		t.Error("it was finished")
	}
	if left := b.leftovers(); len(left) > 0 {
		t.Error(left)
	}
	b.snapshotOf(v.ID, "s")
}

func TestWhatIsSharedIsNotInPlace(t *testing.T) {
	roottest.Require(t)
	b := newBenchOn(t, FilesystemXFS, 2*volume.GiB, nil, "default")
	p := b.poolNamed("default")
	v := b.create(blockSpec("a"))
	img := b.openImage(v.ID, os.O_RDWR)
	write := func(n volume.Bytes) {
		t.Helper()
		if _, err := img.WriteAt(bytes.Repeat([]byte{1}, int(n)), 0); err != nil {
			t.Fatal(err)
		}
		if err := img.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(when string, mapped, inPlace volume.Bytes) {
		t.Helper()
		u, err := p.usageOf(objectDir(v.ID))
		if err != nil || u.Mapped != mapped || u.InPlace != inPlace || mapped > 0 != (u.Extents > 0) {
			t.Errorf("%s: %+v, %v; want %s, %s of it in place", when, u, err, mapped, inPlace)
		}
	}
	expect("new", 0, 0)
	write(32 * volume.MiB)
	expect("written", 32*volume.MiB, 32*volume.MiB)
	s := b.snapshotOf(v.ID, "s")
	expect("snapshotted", 32*volume.MiB, 0)
	write(8 * volume.MiB)
	expect("a part overwritten", 32*volume.MiB, 8*volume.MiB)
	if err := b.DeleteSnapshot(t.Context(), s.ID); err != nil {
		t.Fatal(err)
	}
	if err := p.emptyTrash(t.Context()); err != nil {
		t.Fatal(err)
	}
	expect("alone again", 32*volume.MiB, 32*volume.MiB)
	if err := p.measureAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	o, _ := p.lookup(v.ID)
	if charge, err := p.chargeOf(o, false); err != nil || charge != v.Size-32*volume.MiB {
		t.Errorf("it is charged with %s, %v", charge, err)
	}
}

// st_blocks has the tree of the extents in it, which no write ever goes to.
func TestAVolumeThatSharesNothingIsChargedWithoutAMeasurement(t *testing.T) {
	roottest.Require(t)
	b := newBenchOn(t, FilesystemXFS, 2*volume.GiB, nil, "default")
	p := b.poolNamed("default")
	v := b.create(volume.Spec{Name: "a", Size: 128 * volume.MiB, Format: volume.Format{Mode: volume.ModeBlock}})
	img := b.openImage(v.ID, os.O_RDWR)
	const blocks = 16384
	for i := range blocks { // every second one, so that each is an extent
		if _, err := img.WriteAt([]byte{1}, int64(i*8059%blocks)*8192); err != nil {
			t.Fatal(err)
		}
	}
	if err := img.Sync(); err != nil {
		t.Fatal(err)
	}
	if n, err := xfs.Extents(img); err != nil || n < blocks/2 {
		t.Fatalf("%d extents are no worst case: %v", n, err)
	}
	u, err := p.usageOf(objectDir(v.ID))
	if err != nil || u.InPlace != blocks*4096 {
		t.Fatalf("%+v, %v", u, err)
	}
	o, _ := p.lookup(v.ID)
	charge, err := p.chargeOf(o, false)
	if need := v.Size - u.InPlace; err != nil || o.copied || charge < need || charge > need+u.InPlace/32 {
		t.Errorf("it may need %s and is charged with %s, copied: %v, %v", need, charge, o.copied, err)
	}
	b.snapshotOf(v.ID, "s")
	b.reopen()
	p = b.poolNamed("default")
	o, _ = p.lookup(v.ID)
	if charge, err := p.chargeOf(o, false); err != nil || !o.copied || charge != v.Size {
		t.Errorf("shared, after a restart, it is charged with %s of %s, copied: %v, %v", charge, v.Size, o.copied, err)
	}
}

func TestTheSpaceOfADeletedVolumeIsBackWhenTheTrashIsEmpty(t *testing.T) {
	roottest.Require(t)
	b := newBenchOn(t, FilesystemXFS, 2*volume.GiB, nil, "default")
	p := b.poolNamed("default")
	before, err := p.store.space()
	if err != nil {
		t.Fatal(err)
	}
	v, img := b.fragment("a", 32768)
	if err := img.Close(); err != nil {
		t.Fatal(err)
	}
	if err := b.DeleteVolume(t.Context(), v.ID); err != nil {
		t.Fatal(err)
	}
	if err := p.emptyTrash(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after, err := p.store.space(); err != nil || after.Free < before.Free-volume.MiB {
		t.Errorf("%s were free, now %s, %v", before.Free, after.Free, err)
	}
}

// What is promised can be written to the last byte, in the smallest pieces, also
// if nothing is left for anybody else.
func TestASnapshottedVolumeIsOverwrittenInAFullPool(t *testing.T) {
	roottest.Require(t)
	b := newBenchOn(t, FilesystemXFS, 1*volume.GiB, nil, "default")
	p := b.poolNamed("default")
	v, _ := b.fragment("a", 16384)
	b.snapshotOf(v.ID, "s")
	foreign, err := os.Create(filepath.Join(p.dir.Name(), "foreign"))
	if err != nil {
		t.Fatal(err)
	}
	defer foreign.Close()
	// Others take what is not promised, down to what still covers the charge.
	for n := int64(0); ; n += int64(volume.MiB) {
		sp, err := p.store.space()
		if err != nil {
			t.Fatal(err)
		}
		if sp.Cover < v.Size+volume.MiB {
			t.Logf("%s free for %s promised", sp.Free, v.Size)
			break
		}
		if err := unix.Fallocate(int(foreign.Fd()), 0, n, int64(volume.MiB)); err != nil {
			t.Fatal(err)
		}
	}
	dev, err := b.Attach(t.Context(), v.ID)
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	f, err := os.OpenFile(dev.Path, os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	block, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(block) }()
	for i := range block {
		block[i] = 3
	}
	failed := make(chan error, 16)
	for w := range 16 {
		go func() {
			var err error
			for i := w; i < 16384 && err == nil; i += 16 {
				_, err = f.WriteAt(block, int64(i*8059%16384)*4096) // 8059 is odd: each block once
			}
			failed <- err
		}()
	}
	for range 16 {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
	if err := errors.Join(f.Sync(), f.Close(), dev.Close(), b.Detach(t.Context(), v.ID)); err != nil {
		t.Error(err)
	}
}
