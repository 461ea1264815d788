package local

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/btrfs"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func TestCoverLeavesRoomForMetadata(t *testing.T) {
	const gib = volume.GiB
	for _, tt := range []struct {
		what      string
		c         chunks
		want, off volume.Bytes
	}{
		{"all unallocated: a fifth is for metadata, less a chunk", chunks{total: 100 * gib, unallocated: 100 * gib}, 80 * gib, gib},
		{"enough metadata is there already", chunks{total: 100 * gib, unallocated: 10 * gib, metaFree: 10 * gib}, 10 * gib, 0},
		{"free space in data chunks is no metadata", chunks{total: 100 * gib, dataFree: 50 * gib, metaFree: gib}, 4 * gib, 0},
		{"unallocated beside it is", chunks{total: 100 * gib, dataFree: 50 * gib, metaFree: gib, unallocated: 2 * gib}, 12 * gib, 0},
		{"a chunk of metadata that may be taken first leaves less for data", chunks{total: 2 * gib, dataFree: 60 << 20, unallocated: 570 << 20}, 214 << 20, 0},
		{"also when what is there would do, but is nearly used up", chunks{total: 20 * gib, unallocated: gib, metaTotal: gib / 2, metaFree: gib / 4}, 615 << 20, 1 << 20},
		{"nothing", chunks{total: 100 * gib}, 0, 0},
	} {
		got := tt.c.cover()
		if got > tt.want || got < tt.want-tt.off {
			t.Errorf("%s: %s, want %s less at most %s", tt.what, got, tt.want, tt.off)
		}
		if got > 0 && !tt.c.covers(got) {
			t.Errorf("%s: %s are not covered", tt.what, got)
		}
	}
}

// What is covered can be allocated, also when a chunk of metadata was taken just
// before: the worst moment is when the last one is nearly full.
func TestWhatIsCoveredCanBeAllocated(t *testing.T) {
	b := newBench(t, 2*volume.GiB, nil, "default")
	p := b.poolNamed("default")
	dir := filepath.Join(p.dir.Name(), "foreign")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	allocate := func(name string, size volume.Bytes) error {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY|os.O_CREATE|unix.O_DIRECT, 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		// As a loop device writes: large pieces take more chunks than they need.
		if err := btrfs.SetNoCow(f); err != nil {
			return err
		}
		piece, err := unix.Mmap(-1, 0, int(volume.MiB), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Munmap(piece) }()
		for ; size > 0; size -= volume.MiB {
			if _, err := f.Write(piece[:min(size, volume.MiB)]); err != nil {
				return err
			}
		}
		return f.Sync()
	}
	small := make([]byte, 2000) // lies inside the metadata
	store := p.store.(*btrfsStore)
	look := func() chunks {
		t.Helper()
		if err := p.store.commit(); err != nil {
			t.Fatal(err)
		}
		c, err := store.chunks()
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	if err := allocate("most", look().cover()*85/100); err != nil {
		t.Fatal(err)
	}
	first := look()
	t.Logf("after the data: %+v", first)
	var before chunks
	n := 0
	for c := first; c.metaTotal == first.metaTotal; c = look() {
		if before = c; n > 200_000 {
			t.Fatal("no chunk of metadata was ever allocated")
		}
		for range 1000 {
			n++
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(n)), small, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	cover := before.cover()
	t.Logf("before: %s covered of %+v; %d small files", cover, before, n)
	if cover == 0 {
		t.Fatal("nothing was covered, so nothing is tested")
	}
	if err := allocate("covered", cover); err != nil {
		t.Errorf("%s were covered: %v; now there is %+v", cover, err, look())
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
}
