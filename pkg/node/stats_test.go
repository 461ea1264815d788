package node

import (
	"os"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func (b *bench) stats(t *testing.T, v volume.Volume, path string) (*csi.NodeGetVolumeStatsResponse, error) {
	t.Helper()
	return b.NodeGetVolumeStats(t.Context(), &csi.NodeGetVolumeStatsRequest{VolumeId: string(v.ID), VolumePath: path})
}

func TestStatsOfAFilesystemAreItsOwn(t *testing.T) {
	for name, f := range filesystems() {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			v := b.images.create(t, "v", f, sizeOf(f))
			b.mustStage(t, v, rwo)
			b.mustPublish(t, b.publishRequest(v, "p", rwo))
			for _, path := range []string{b.staging(v), b.target("p")} {
				resp, err := b.stats(t, v, path)
				if err != nil {
					t.Fatal(err)
				}
				units := map[csi.VolumeUsage_Unit]*csi.VolumeUsage{}
				for _, u := range resp.GetUsage() {
					units[u.GetUnit()] = u
				}
				size, inodes := units[csi.VolumeUsage_BYTES], units[csi.VolumeUsage_INODES]
				if size.GetTotal() <= int64(v.Size)/2 || size.GetTotal() > int64(v.Size) || size.GetAvailable() <= 0 || size.GetUsed() < 0 || size.GetAvailable()+size.GetUsed() > size.GetTotal() {
					t.Errorf("%s: bytes %v of a volume of %d", path, size, v.Size)
				}
				if inodes.GetTotal() <= 0 || inodes.GetUsed() <= 0 || inodes.GetAvailable() <= 0 {
					t.Errorf("%s: inodes %v", path, inodes)
				}
			}
			b.mustEnd(t, v, "p")
		})
	}
}

func TestStatsOfABlockVolumeAreItsSize(t *testing.T) {
	b := newBench(t)
	v := b.images.create(t, "v", block, sizeOf(block))
	b.mustStage(t, v, rwo)
	b.mustPublish(t, b.publishRequest(v, "rw", rwo))
	b.mustPublish(t, readOnly(b.publishRequest(v, "ro", rwo)))
	for _, target := range []string{"rw", "ro"} {
		resp, err := b.stats(t, v, b.target(target))
		if err != nil || len(resp.GetUsage()) != 1 || resp.GetUsage()[0].GetTotal() != int64(v.Size) || resp.GetUsage()[0].GetUnit() != csi.VolumeUsage_BYTES {
			t.Errorf("%s: got %v, %v; want a total of %d bytes", target, resp, err, v.Size)
		}
	}
	b.mustEnd(t, v, "rw", "ro")
}

func TestStatsOfAPathThatIsNotTheVolumeAreNotFound(t *testing.T) {
	b := newBench(t)
	v := b.images.create(t, "v", ext4, sizeOf(ext4))
	w := b.images.create(t, "w", ext4, sizeOf(ext4))
	raw := b.images.create(t, "raw", block, sizeOf(block))
	for _, each := range []volume.Volume{v, w, raw} {
		b.mustStage(t, each, rwo)
	}
	b.mustPublish(t, b.publishRequest(raw, "raw", rwo))
	for _, dir := range []string{b.target("dir"), b.staging(v) + "/inside"} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	write(t, b.target("file"), "")
	for name, path := range map[string]string{
		"nothing":              b.target("none"),
		"a relative path":      "some/path",
		"a path outside":       "/",
		"a directory":          b.target("dir"),
		"a file":               b.target("file"),
		"another volume":       b.staging(w),
		"another device":       b.target("raw"),
		"a part of the volume": b.staging(v) + "/inside",
	} {
		_, err := b.stats(t, v, path)
		t.Log(name)
		wantErr(t, err, volume.ErrNotFound)
	}
	idle := b.images.create(t, "idle", ext4, sizeOf(ext4))
	_, err := b.stats(t, idle, b.staging(v))
	wantErr(t, err, volume.ErrNotFound)
	_, err = b.stats(t, v, "")
	wantErr(t, err, volume.ErrInvalid)
	if err := b.unpublish(t.Context(), raw, "raw"); err != nil {
		t.Fatal(err)
	}
	for _, each := range []volume.Volume{v, w, raw} {
		if err := b.unstage(t.Context(), each); err != nil {
			t.Error(err)
		}
	}
	b.wantNothing(t, v)
}
