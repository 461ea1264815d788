package node

import (
	"os"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/pkg/filesystem"
	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func (b *bench) expandRequest(v volume.Volume, path string) *csi.NodeExpandVolumeRequest {
	return &csi.NodeExpandVolumeRequest{
		VolumeId: string(v.ID), VolumePath: path, StagingTargetPath: b.staging(v),
		CapacityRange:    &csi.CapacityRange{RequiredBytes: int64(v.Size)},
		VolumeCapability: capabilityOf(v.Format, rwo),
	}
}

func (b *bench) mustExpand(t *testing.T, v volume.Volume, path string) {
	t.Helper()
	for range 2 {
		resp, err := b.NodeExpandVolume(t.Context(), b.expandRequest(v, path))
		if err != nil {
			t.Fatal(err)
		}
		if got := volume.Bytes(resp.GetCapacityBytes()); got != v.Size {
			t.Errorf("capacity %d, want exactly %d", got, v.Size)
		}
	}
}

func filesystemSize(t *testing.T, path string, f volume.FSType) volume.Bytes {
	t.Helper()
	root, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	size, err := filesystem.Size(root, f)
	if err != nil {
		t.Fatal(err)
	}
	return size
}

func TestExpandGrowsAMountedXfsThroughAnyOfItsPaths(t *testing.T) {
	b := newBench(t)
	v := b.images.create(t, "v", xfs, sizeOf(xfs))
	b.mustStage(t, v, rwo)
	b.mustPublish(t, b.publishRequest(v, "rw", rwo))
	b.mustPublish(t, readOnly(b.publishRequest(v, "ro", rwo)))
	write(t, b.target("rw")+"/file", "content")
	for _, path := range []string{b.staging(v), b.target("rw"), b.target("ro")} {
		v = b.images.expand(t, v, v.Size+64*volume.MiB)
		b.mustExpand(t, v, path)
		if got := filesystemSize(t, b.target("rw"), volume.XFS); got != v.Size {
			t.Errorf("through %s: filesystem of %s, want %s", path, got, v.Size)
		}
	}
	wantContent(t, b.target("rw")+"/file", "content")
	b.mustEnd(t, v, "rw", "ro")
}

func TestExpandOfAMountedExt4GrowsItOrSaysHowItGrows(t *testing.T) {
	b := newBench(t)
	v := b.images.create(t, "v", ext4, sizeOf(ext4))
	b.mustStage(t, v, rwo)
	b.mustPublish(t, b.publishRequest(v, "rw", rwo))
	write(t, b.target("rw")+"/file", "content")
	v = b.images.expand(t, v, 2*v.Size)
	if filesystem.CanGrowOnline(volume.Ext4) {
		b.mustExpand(t, v, b.staging(v))
	} else {
		t.Log("no CAP_SYS_RESOURCE here: growth while mounted is tested as the refusal that it is")
		_, err := b.NodeExpandVolume(t.Context(), b.expandRequest(v, b.staging(v)))
		wantErr(t, err, volume.ErrPrecondition)
		b.mustEnd(t, v, "rw")
		b.mustStage(t, v, rwo)
		b.mustPublish(t, b.publishRequest(v, "rw", rwo))
	}
	if got := filesystemSize(t, b.target("rw"), volume.Ext4); got != v.Size {
		t.Errorf("filesystem of %s, want %s", got, v.Size)
	}
	wantContent(t, b.target("rw")+"/file", "content")
	b.mustExpand(t, v, b.target("rw")) // there is nothing left to grow
	b.mustEnd(t, v, "rw")
}

func TestExpandGrowsTheDeviceAndEachReadOnlyOne(t *testing.T) {
	b := newBench(t)
	v := b.images.create(t, "v", block, sizeOf(block))
	b.mustStage(t, v, rwo)
	b.mustPublish(t, b.publishRequest(v, "rw", rwo))
	b.mustPublish(t, readOnly(b.publishRequest(v, "ro", rwo)))
	dev, _, err := b.images.Lookup(t.Context(), v.ID)
	if err != nil {
		t.Fatal(err)
	}
	dev.Close()
	for _, path := range []string{b.target("rw"), b.target("ro"), b.staging(v), dev.Path} {
		if path == b.staging(v) {
			// For a block volume this is a directory that kubelet made.
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		v = b.images.expand(t, v, v.Size+8*volume.MiB)
		b.mustExpand(t, v, path)
		for _, tag := range []string{b.images.tag(v.ID), stackedTag(v.ID)} {
			found, err := loop.Find(tag)
			if err != nil || len(found) != 1 || found[0].Size != v.Size {
				t.Errorf("devices %s: %+v, %v; want one of %s", tag, found, err, v.Size)
			}
		}
	}
	b.mustEnd(t, v, "rw", "ro")
}

func TestExpandRefuses(t *testing.T) {
	b := newBench(t)
	v := b.images.create(t, "v", ext4, sizeOf(ext4))
	idle := b.images.create(t, "idle", ext4, sizeOf(ext4))
	b.mustStage(t, v, rwo)
	b.mustPublish(t, b.publishRequest(v, "p", rwo))
	if err := os.Mkdir(b.target("empty"), 0o700); err != nil {
		t.Fatal(err)
	}
	edit := func(change func(*csi.NodeExpandVolumeRequest)) *csi.NodeExpandVolumeRequest {
		r := b.expandRequest(v, b.target("p"))
		change(r)
		return r
	}
	for name, tc := range map[string]struct {
		req  *csi.NodeExpandVolumeRequest
		want error
	}{
		"no id":          {edit(func(r *csi.NodeExpandVolumeRequest) { r.VolumeId = "" }), volume.ErrInvalid},
		"no path":        {edit(func(r *csi.NodeExpandVolumeRequest) { r.VolumePath = "" }), volume.ErrInvalid},
		"a malformed id": {edit(func(r *csi.NodeExpandVolumeRequest) { r.VolumeId, r.VolumePath = "x", "some/path" }), volume.ErrNotFound},
		"an unknown id": {edit(func(r *csi.NodeExpandVolumeRequest) {
			r.VolumeId = string(volume.NewID(volume.KindVolume, testPool, "?"))
		}), volume.ErrNotFound},
		"a path of nothing":   {edit(func(r *csi.NodeExpandVolumeRequest) { r.VolumePath = b.target("none") }), volume.ErrNotFound},
		"a hostile path":      {edit(func(r *csi.NodeExpandVolumeRequest) { r.VolumePath = b.target("p") + "/../../etc" }), volume.ErrInvalid},
		"a path of no mount":  {edit(func(r *csi.NodeExpandVolumeRequest) { r.VolumePath = b.target("empty") }), volume.ErrPrecondition},
		"a volume not staged": {b.expandRequest(idle, b.target("p")), volume.ErrPrecondition},
		"a size not granted":  {edit(func(r *csi.NodeExpandVolumeRequest) { r.CapacityRange.RequiredBytes++ }), volume.ErrOutOfRange},
		"a limit below": {edit(func(r *csi.NodeExpandVolumeRequest) {
			r.CapacityRange = &csi.CapacityRange{LimitBytes: int64(v.Size) - 1}
		}), volume.ErrOutOfRange},
		"a negative size": {edit(func(r *csi.NodeExpandVolumeRequest) { r.CapacityRange.RequiredBytes = -1 }), volume.ErrInvalid},
		"another use":     {edit(func(r *csi.NodeExpandVolumeRequest) { r.VolumeCapability = capabilityOf(block, rwo) }), volume.ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := b.NodeExpandVolume(t.Context(), tc.req)
			wantErr(t, err, tc.want)
		})
	}
	b.mustEnd(t, v, "p")
}

func TestExpandOfAVolumeStagedReadOnlyWaits(t *testing.T) {
	b := newBench(t)
	v := b.images.create(t, "v", xfs, sizeOf(xfs))
	b.mustStage(t, v, rox)
	v = b.images.expand(t, v, 2*v.Size)
	req := b.expandRequest(v, b.staging(v))
	_, err := b.NodeExpandVolume(t.Context(), req)
	wantErr(t, err, volume.ErrPrecondition)
	b.mustEnd(t, v)
	b.mustStage(t, v, rox)
	if got := filesystemSize(t, b.staging(v), volume.XFS); got != v.Size {
		t.Errorf("filesystem of %s, want %s", got, v.Size)
	}
	if !at(t, b.staging(v)).ReadOnly() {
		t.Error("it grew and is not read-only any more")
	}
	b.mustEnd(t, v)
}

// oddSteps are growths after which the kernel or resize2fs may leave the end of the
// device unused: it is too little for one more allocation group.
var oddSteps = []volume.Bytes{4 * volume.KiB, volume.MiB, 12 * volume.MiB, 128 * volume.MiB, 129 * volume.MiB}

// After a stage nothing may be left to grow: without CAP_SYS_RESOURCE the kernel
// refuses, and Kubernetes would be told for ever that the next stage will do it.
func TestAfterAStageThereIsNothingLeftToExpand(t *testing.T) {
	for name, f := range filesystems() {
		for _, mode := range []csi.VolumeCapability_AccessMode_Mode{rwo, rox} {
			t.Run(name+" "+mode.String(), func(t *testing.T) {
				b := newBench(t)
				v := b.images.create(t, "v", f, volume.GiB)
				for _, step := range oddSteps {
					v = b.images.expand(t, v, v.Size+step)
					var sizes [2]volume.Bytes
					for i := range sizes {
						b.mustStage(t, v, mode)
						sizes[i] = filesystemSize(t, b.staging(v), f.FSType)
						if mode == rwo {
							b.mustExpand(t, v, b.staging(v))
						}
						b.mustEnd(t, v)
					}
					if sizes[0] != sizes[1] || sizes[0] > v.Size || sizes[0] < v.Size-3*volume.MiB {
						t.Errorf("%s more: filesystems of %v bytes on a volume of %d", step, sizes, v.Size)
					}
				}
			})
		}
	}
}
