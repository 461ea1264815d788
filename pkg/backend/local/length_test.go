package local

import (
	"errors"
	"testing"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// An image that was lengthened and whose record was not may be filled to its end:
// it is charged so, at once and after a restart.
func TestAGrowthThatFailedHalfWayIsChargedWhole(t *testing.T) {
	onEach(t, func(t *testing.T, fsType string) {
		broken := errors.New("broken")
		hook := func(step string) error {
			if step == "expand-volume/lengthened" {
				return broken
			}
			return nil
		}
		b := newBenchOn(t, fsType, 2*volume.GiB, hook, "default")
		spec := volume.Spec{Name: "a", Size: 64 * volume.MiB, Format: volume.Format{Mode: volume.ModeBlock}}
		v, err := b.CreateVolume(t.Context(), spec)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.CreateSnapshot(t.Context(), volume.SnapshotSpec{Name: "s", Source: v.ID}); err != nil {
			t.Fatal(err)
		}
		const larger = 128 * volume.MiB
		if _, err := b.ExpandVolume(t.Context(), v.ID, larger, 0); !errors.Is(err, broken) {
			t.Fatalf("it was to fail: %v", err)
		}
		for _, when := range []string{"at once", "after a restart"} {
			p := b.poolNamed("default")
			o, ok := p.lookup(v.ID)
			if charge, err := p.chargeOf(o, false); !ok || err != nil || charge != larger || o.Size != v.Size {
				t.Errorf("%s a volume of %s is charged with %s, %v", when, o.Size, charge, err)
			}
			b.reopen()
		}
	})
}
