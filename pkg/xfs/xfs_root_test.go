package xfs

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/test/roottest"
	"github.com/holdfast-csi/holdfast/test/scratch"
)

func TestMain(m *testing.M) { roottest.Main(m) }

// newFilesystem mounts a new XFS with reflink and opens its root.
func newFilesystem(t *testing.T, size volume.Bytes) *os.File {
	t.Helper()
	f, err := os.Open(scratch.XFS(t, size, "-m", "reflink=1,rmapbt=0", "-L", "scratch"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func create(t *testing.T, dir *os.File, name string) *os.File {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir.Name(), name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// fill writes and syncs.
func fill(t *testing.T, f *os.File, offset, length int64, content byte) {
	t.Helper()
	_, err := f.WriteAt(bytes.Repeat([]byte{content}, int(length)), offset)
	must(t, err)
	must(t, f.Sync())
}

// overwrite writes every second block of a file.
func overwrite(t *testing.T, f *os.File, size int64) {
	t.Helper()
	block := bytes.Repeat([]byte{2}, 4096)
	for _, i := range rand.Perm(int(size / 8192)) {
		_, err := f.WriteAt(block, int64(i)*8192)
		must(t, err)
	}
	must(t, f.Sync())
}

func free(t *testing.T, f *os.File) int64 {
	t.Helper()
	var st unix.Statfs_t
	must(t, unix.Fstatfs(int(f.Fd()), &st))
	return int64(st.Bavail) * st.Bsize
}

func TestGeometryIsThatOfTheFilesystem(t *testing.T) {
	root := newFilesystem(t, 512*volume.MiB)
	g, err := ReadGeometry(root)
	must(t, err)
	if len(g.UUID) != 36 || g.BlockSize != 4096 || g.Blocks != int64(512*volume.MiB)/4096 || !g.Reflink || g.ReverseMap {
		t.Errorf("%+v", g)
	}
	if g.Groups*g.GroupBlocks < g.Blocks || (g.Groups-1)*g.GroupBlocks >= g.Blocks {
		t.Errorf("%d groups of %d blocks do not make %d", g.Groups, g.GroupBlocks, g.Blocks)
	}
	if ok, err := IsXFS(root); err != nil || !ok {
		t.Errorf("it is not XFS: %v", err)
	}
	other, err := os.Open(scratch.XFS(t, 512*volume.MiB, "-m", "reflink=0"))
	must(t, err)
	defer other.Close()
	h, err := ReadGeometry(other)
	if err != nil || h.Reflink || h.UUID == g.UUID {
		t.Errorf("%+v, %v", h, err)
	}
}

func TestAnotherFilesystemIsNotXFS(t *testing.T) {
	dir, err := os.Open("/proc")
	must(t, err)
	defer dir.Close()
	if ok, err := IsXFS(dir); err != nil || ok {
		t.Errorf("%v, %v", ok, err)
	}
	if _, err := ReadGeometry(dir); err == nil {
		t.Error("/proc has a geometry")
	}
}

func TestACloneKeepsWhatItsSourceLoses(t *testing.T) {
	root := newFilesystem(t, 512*volume.MiB)
	src, dst := create(t, root, "src"), create(t, root, "dst")
	const size = 4 << 20
	must(t, src.Truncate(size))
	fill(t, src, 0, size/2, 1)
	must(t, Clone(src, dst))
	fill(t, src, 0, size/2, 2)
	got := make([]byte, size)
	if _, err := dst.ReadAt(got, 0); err != nil || !bytes.Equal(got[:size/2], bytes.Repeat([]byte{1}, size/2)) || !bytes.Equal(got[size/2:], make([]byte, size/2)) {
		t.Errorf("the clone changed: %v", err)
	}
	// A clone onto a clone takes what changed, holes too.
	must(t, unix.Fallocate(int(src.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 1<<20))
	must(t, Clone(src, dst))
	if _, err := dst.ReadAt(got, 0); err != nil || !bytes.Equal(got[:1<<20], make([]byte, 1<<20)) || got[1<<20] != 2 {
		t.Errorf("the second clone is not what its source is: %v", err)
	}
}

func TestCloningByRangesMakesTheSameFile(t *testing.T) {
	root := newFilesystem(t, 512*volume.MiB)
	src, dst := create(t, root, "src"), create(t, root, "dst")
	const size, part = 8 << 20, 1 << 20
	must(t, src.Truncate(size))
	fill(t, src, 2*part, 3*part, 1)
	must(t, dst.Truncate(size))
	for at := int64(0); at < size; at += part {
		must(t, CloneRange(src, dst, at, part))
	}
	want, err := os.ReadFile(src.Name())
	must(t, err)
	if got, err := os.ReadFile(dst.Name()); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the copy differs from its source: %v", err)
	}
}

func TestExtentsSayWhatIsShared(t *testing.T) {
	root := newFilesystem(t, 512*volume.MiB)
	src, dst := create(t, root, "src"), create(t, root, "dst")
	const size = 16 << 20
	must(t, src.Truncate(2*size))
	fill(t, src, 0, size, 1)
	count := func() (extents int, mapped, shared int64) {
		t.Helper()
		end := int64(0)
		must(t, WalkExtents(src, func(e Extent) error {
			if e.Offset < end || e.Length <= 0 {
				t.Fatalf("extent %+v begins before %d", e, end)
			}
			end = e.Offset + e.Length
			extents++
			mapped += e.Length
			if e.Shared {
				shared += e.Length
			}
			return nil
		}))
		return extents, mapped, shared
	}
	if n, mapped, shared := count(); n == 0 || mapped != size || shared != 0 {
		t.Errorf("of its own: %d extents of %d bytes, %d shared", n, mapped, shared)
	}
	must(t, Clone(src, dst))
	if _, mapped, shared := count(); mapped != size || shared != size {
		t.Errorf("cloned: %d bytes, %d shared", mapped, shared)
	}
	must(t, SetCowExtSize(src, 4096))
	overwrite(t, src, size)
	n, mapped, shared := count()
	if mapped != size || shared != size/2 {
		t.Errorf("half of it overwritten: %d bytes, %d shared", mapped, shared)
	}
	if n <= chunkExtents {
		t.Fatalf("%d extents are read in one call: the next is not tested", n)
	}
	if m, err := Extents(src); err != nil || m < chunkExtents || m > n {
		t.Errorf("the file has %d extents, those that were read are %d: %v", m, n, err)
	}
	must(t, os.Remove(dst.Name()))
	must(t, dst.Close())
	must(t, FinishRemovals(root))
	if _, mapped, shared := count(); mapped != size || shared != 0 {
		t.Errorf("alone again: %d bytes, %d shared", mapped, shared)
	}
}

func TestAnImmutableFileIsNotWrittenOrRemovedByRoot(t *testing.T) {
	root := newFilesystem(t, 512*volume.MiB)
	f := create(t, root, "f")
	fill(t, f, 0, 4096, 1)
	must(t, SetImmutable(f, true))
	if on, err := Immutable(f); err != nil || !on {
		t.Errorf("%v, %v", on, err)
	}
	if w, err := os.OpenFile(f.Name(), os.O_RDWR, 0); !errors.Is(err, unix.EPERM) {
		w.Close()
		t.Errorf("opened for writing: %v", err)
	}
	if err := os.Remove(f.Name()); !errors.Is(err, unix.EPERM) {
		t.Errorf("removed: %v", err)
	}
	if err := os.Rename(f.Name(), f.Name()+".moved"); !errors.Is(err, unix.EPERM) {
		t.Errorf("renamed: %v", err)
	}
	copied := create(t, root, "copied")
	must(t, CopyAttributes(f, copied))
	must(t, Clone(f, copied))
	fill(t, copied, 0, 4096, 2)
	must(t, SetImmutable(f, false))
	must(t, os.Remove(f.Name()))
}

func TestAFileIsKnownByItsGeneration(t *testing.T) {
	root := newFilesystem(t, 512*volume.MiB)
	seen := map[uint32]bool{}
	for range 20 { // the inode number is the same each time
		f, err := os.Create(filepath.Join(root.Name(), "f"))
		must(t, err)
		g, err := Generation(f)
		must(t, err)
		if seen[g] {
			t.Errorf("generation %d came again", g)
		}
		seen[g] = true
		must(t, f.Close())
		must(t, os.Remove(f.Name()))
		must(t, FinishRemovals(root))
	}
}

func TestTheCowExtentSizeIsHandedToAClone(t *testing.T) {
	root := newFilesystem(t, 512*volume.MiB)
	src, dst := create(t, root, "src"), create(t, root, "dst")
	must(t, SetCowExtSize(src, 64<<10))
	fill(t, src, 0, 4096, 1)
	must(t, Clone(src, dst))
	if n, err := CowExtSize(dst); err != nil || n != 64<<10 {
		t.Errorf("the clone has %d: %v", n, err)
	}
	must(t, SetCowExtSize(dst, 0))
	if n, err := CowExtSize(dst); err != nil || n != 0 {
		t.Errorf("after it was reset it has %d: %v", n, err)
	}
	if err := SetCowExtSize(dst, 1000); err == nil {
		t.Error("a part of a block was taken")
	}
}

func TestFinishRemovalsBringsTheSpaceBack(t *testing.T) {
	root := newFilesystem(t, 512*volume.MiB)
	f, keep := create(t, root, "f"), create(t, root, "keep")
	const size = 64 << 20
	fill(t, f, 0, size, 1)
	must(t, Clone(f, keep))
	must(t, SetCowExtSize(f, 4096))
	overwrite(t, f, size)
	must(t, f.Close())
	before := free(t, root)
	must(t, os.Remove(f.Name()))
	must(t, FinishRemovals(root))
	if got := free(t, root) - before; got < size/2 {
		t.Errorf("%d bytes came back, want %d", got, size/2)
	}
}

func TestPreallocatedSpaceCanBeReleased(t *testing.T) {
	root := newFilesystem(t, 512*volume.MiB)
	f, snap := create(t, root, "f"), create(t, root, "snap")
	const size = 16 << 20
	fill(t, f, 0, size, 1)
	must(t, Clone(f, snap))
	must(t, SetCowExtSize(f, 128<<10))
	before := free(t, root)
	fill(t, f, 0, 4096, 2)
	taken := before - free(t, root)
	must(t, ReleasePreallocated(root))
	if left := before - free(t, root); taken < 128<<10 || left > 64<<10 {
		t.Errorf("one block took %d bytes, of which %d stayed when the rest was released", taken, left)
	}
}
