package filesystem_test

import (
	"bytes"
	"fmt"
	"os"
	"testing"

	"github.com/holdfast-csi/holdfast/pkg/command"
	"github.com/holdfast-csi/holdfast/pkg/filesystem"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// What resize2fs leaves unused depends on the size of the inode tables and on
// whether the next group holds a copy of the superblock: group 3, 9 and 81 do, 2, 8
// and 64 do not, and the descriptors of 65 groups need one block more.
func TestExt4FillsADeviceExactlyWhenResize2fsGrowsItNoFurther(t *testing.T) {
	requireTool(t, "resize2fs")
	const group = 128 * volume.MiB
	for _, groups := range []volume.Bytes{1, 2, 3, 8, 9, 64, 81} {
		for _, ratio := range []int{0, 4096, 65536} {
			t.Run(fmt.Sprintf("%d groups, %d bytes per inode", groups, ratio), func(t *testing.T) {
				f := format(volume.Ext4)
				f.InodeRatio = ratio
				path := newImage(t, groups*group)
				if err := filesystem.Format(t.Context(), command.New(), path, f); err != nil {
					t.Fatal(err)
				}
				born, err := probe(t, path)
				if err != nil {
					t.Fatal(err)
				}
				wantFill(t, path, born.Size+born.Tail, born.Size)
				wantFill(t, path, born.Size+born.Tail+1, born.Size+born.Tail+1)
				wantFill(t, path, born.Size+group/2, born.Size+group/2)
			})
		}
	}
}

// wantFill gives the image a size; it then grows to the size that is wanted, and
// says both before and after whether there is something to do.
func wantFill(t *testing.T, path string, device, want volume.Bytes) {
	t.Helper()
	before, err := probe(t, path)
	if err != nil {
		t.Fatal(err)
	}
	if got := before.Fills(device); got != (before.Size == want) {
		t.Errorf("%s fills %s: %t; it can grow to %s", before.Size, device, got, want)
	}
	truncate(t, path, device)
	if err := filesystem.GrowOffline(t.Context(), command.New(), path); err != nil {
		t.Fatal(err)
	}
	after, err := probe(t, path)
	if err != nil || after.Size != want || !after.Fills(device) {
		t.Errorf("on %d bytes it is %+v, %v; want %d bytes", device, after, err, want)
	}
}

// torn answers the first reads with a superblock whose checksum does not match.
type torn struct {
	image *bytes.Reader
	reads int
}

func (r *torn) ReadAt(b []byte, at int64) (int, error) {
	n, err := r.image.ReadAt(b, at)
	if r.reads--; r.reads >= 0 {
		b[1024+0x20]++
		b[200]++
	}
	return n, err
}

func TestSuperblockThatChangesWhileItIsReadIsReadAgain(t *testing.T) {
	everyType(t, func(t *testing.T, fs volume.FSType) {
		image, err := os.ReadFile(newFilesystem(t, fs, 300*volume.MiB))
		if err != nil {
			t.Fatal(err)
		}
		image = image[:1<<20]
		if _, err := filesystem.Probe(&torn{bytes.NewReader(image), 1}); err == nil {
			t.Error("the torn superblock counts as whole")
		}
		if sb, err := filesystem.ProbeInUse(&torn{bytes.NewReader(image), 3}); err != nil || sb.Type != fs {
			t.Errorf("ProbeInUse = %+v, %v", sb, err)
		}
		if _, err := filesystem.ProbeInUse(&torn{bytes.NewReader(image), 1000}); err == nil {
			t.Error("a superblock that is never whole counts as whole")
		}
	})
}
