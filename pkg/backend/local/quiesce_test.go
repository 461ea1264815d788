package local

import (
	"testing"

	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func TestAFilesystemThatIsReadOnlyElsewhereIsReached(t *testing.T) {
	b := newBench(t, 2*volume.GiB, nil, "default")
	for _, fsType := range []volume.FSType{volume.Ext4, volume.XFS} {
		size := 64 * volume.MiB
		if fsType == volume.XFS {
			size = 300 * volume.MiB
		}
		v := b.create(volume.Spec{Name: string(fsType), Size: size, Format: volume.Format{Mode: volume.ModeFilesystem, FSType: fsType, SectorSize: 4096}})
		dev, err := b.Attach(t.Context(), v.ID)
		if err != nil {
			t.Fatal(err)
		}
		// Attached nowhere: to this engine it is as if in another namespace.
		elsewhere, err := mount.New(t.Context(), mount.Config{FSType: string(fsType), Source: dev.Path, ReadOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		if err := b.snapshot("of-"+string(fsType), v.ID); err != nil {
			t.Errorf("%s: %v", fsType, err)
		}
		if frozen, err := thawVolume(t.Context(), v.ID, fsType); frozen || err != nil {
			t.Errorf("%s: frozen %t, %v", fsType, frozen, err)
		}
		if err := elsewhere.Close(); err != nil {
			t.Error(err)
		}
		if err := dev.Hold.Close(); err != nil {
			t.Error(err)
		}
	}
}
