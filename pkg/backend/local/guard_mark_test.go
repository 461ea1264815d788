package local

import (
	"errors"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/filesystem"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// TestTheWatchdogThawsNearAFullPool: a volume that the guard only watches, but not
// one that it has frozen.
func TestTheWatchdogThawsNearAFullPool(t *testing.T) {
	b := newBench(t, volume.GiB, nil, "default")
	id, root := b.mounted("a", volume.Ext4)
	if err := b.marks.write(id, volume.Ext4); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		end  func() (bool, error)
	}{
		{"of a driver that died", func() (bool, error) { return b.intents.thawLeft(t.Context(), id) }},
		{"of a driver that hangs", func() (bool, error) {
			_, frozen, err := b.intents.breakFreeze(t.Context(), id, 0)
			return frozen, err
		}},
	} {
		for _, byGuard := range []bool{true, false} {
			mode := markNear
			if byGuard {
				mode = markFrozen
			}
			held, err := b.intents.write(t.Context(), id, volume.Ext4)
			if err != nil {
				t.Fatal(err)
			}
			if c.name == "of a driver that died" {
				if err := held.end(false); err != nil {
					t.Fatal(err)
				}
			}
			if err := errors.Join(b.marks.say(id, mode), filesystem.Freeze(root)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Millisecond)
			frozen, err := c.end()
			if still := isFrozen(t, root); still != byGuard || frozen == byGuard || err != nil {
				t.Errorf("%s, frozen by the guard %t: it is frozen now: %t; thawed %t, %v", c.name, byGuard, still, frozen, err)
			}
			if err := errors.Join(b.marks.say(id, markNear), ignoreThawed(filesystem.ThawIfFrozen(root))); err != nil {
				t.Fatal(err)
			}
			if c.name == "of a driver that hangs" {
				if err := held.end(true); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if err := b.marks.remove(id); err != nil {
		t.Error(err)
	}
}

func ignoreThawed(_ bool, err error) error { return err }
