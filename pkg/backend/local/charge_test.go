package local

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// fullVolume makes a raw block volume that is written from end to end.
func fullVolume(b *bench, size volume.Bytes) volume.Volume {
	b.t.Helper()
	v, err := b.CreateVolume(b.t.Context(), volume.Spec{Name: "full", Size: size, Format: volume.Format{Mode: volume.ModeBlock}})
	if err != nil {
		b.t.Fatal(err)
	}
	p := b.poolNamed("default")
	img, err := os.OpenFile(filepath.Join(p.dir.Name(), objectDir(v.ID), dataDir, imageFile), os.O_WRONLY, 0)
	if err != nil {
		b.t.Fatal(err)
	}
	defer img.Close()
	if _, err := img.Write(make([]byte, size)); err != nil {
		b.t.Fatal(err)
	}
	if err := img.Sync(); err != nil {
		b.t.Fatal(err)
	}
	return v
}

// On XFS an idle volume is charged less as soon as what shared with it is gone.
func TestADeletedSnapshotGivesItsVolumeBack(t *testing.T) {
	b := newBenchOn(t, FilesystemXFS, volume.GiB, nil, "default")
	p := b.poolNamed("default")
	v := fullVolume(b, 64*volume.MiB)
	charge := func() volume.Bytes {
		t.Helper()
		if err := p.measureAll(t.Context()); err != nil {
			t.Fatal(err)
		}
		o, _ := p.lookup(v.ID)
		c, err := p.chargeOf(o, false)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	s, err := b.CreateSnapshot(t.Context(), volume.SnapshotSpec{Name: "s", Source: v.ID})
	if err != nil {
		t.Fatal(err)
	}
	if got := charge(); got != v.Size {
		t.Errorf("with a snapshot it is charged with %s", got)
	}
	if err := b.DeleteSnapshot(t.Context(), s.ID); err != nil {
		t.Fatal(err)
	}
	if err := p.emptyTrash(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := charge(); got > v.Size/16 {
		t.Errorf("without one it is charged with %s", got)
	}
}

// A volume whose record was damaged may be mounted and written to all the same.
func TestAVolumeWithoutARecordIsChargedWhole(t *testing.T) {
	onEach(t, func(t *testing.T, fsType string) {
		b := newBenchOn(t, fsType, 2*volume.GiB, nil, "default")
		const size = 256 * volume.MiB
		fullVolume(b, size)
		p := b.poolNamed("default")
		before, err := p.room()
		if err != nil {
			t.Fatal(err)
		}
		for id := range p.objects {
			for _, name := range []string{recordFile(volume.KindVolume), recordFile(volume.KindVolume) + previousSuffix} {
				if err := os.WriteFile(filepath.Join(p.dir.Name(), objectDir(id), name), []byte("rot"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
		b.reopen()
		after, err := b.poolNamed("default").room()
		if err != nil {
			t.Fatal(err)
		}
		if after > before-size*3/4 {
			t.Errorf("there was room for %s, and there is for %s", before, after)
		}
	})
}
