package local

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// checker is the pool "default" as a check in another process has it.
func (b *bench) checker() *pool {
	b.t.Helper()
	state, err := os.OpenRoot(b.cfg.StateDir)
	b.must(err)
	defer state.Close()
	regs, err := registrations(state)
	b.must(err)
	p, err := (&Backend{cfg: Config{Overcommit: 1, Runner: b.cfg.Runner}, state: state}).openRegistered(regs[0])
	b.must(err)
	return p
}

// roomIn is the room of a pool of which all is measured.
func (b *bench) roomIn(p *pool) volume.Bytes {
	b.t.Helper()
	b.must(p.store.commit())
	b.must(p.measureAll(b.t.Context()))
	room, err := p.room()
	b.must(err)
	return room
}

// What a check copies is no more overwritten in place: the driver charges that
// while there is the copy, and a check that is killed leaves one.
func TestTheCopyOfACheckIsCharged(t *testing.T) { onEach(t, testTheCopyOfACheckIsCharged) }

func testTheCopyOfACheckIsCharged(t *testing.T, fsType string) {
	b := newBenchOn(t, fsType, volume.GiB, nil, "default")
	const size = 256 * volume.MiB
	v := b.mustCreate(volume.Spec{Name: "a", Size: size, Format: volume.Format{Mode: volume.ModeBlock}})
	b.fill(v.ID, 1, 0, size)
	p := b.poolNamed("default")
	before := b.roomIn(p)

	other := b.checker()
	o, _ := p.lookup(v.ID)
	img, err := other.openImage(o, unix.O_RDONLY)
	b.must(err)
	var seen int64
	b.must(other.catchUp(t.Context(), &seen))
	private, err := other.privateCopy(t.Context(), o, img, &seen)
	b.must(err)
	p.tidy(t.Context()) // it is in use
	during := b.roomIn(p)
	if during > before-size {
		t.Errorf("the room was %s and is %s beside a copy of %s", before, during, size)
	}
	b.fill(v.ID, 2, 0, size/2) // elsewhere
	b.reopen()                 // a start leaves it to a check that is under way
	p = b.poolNamed("default")
	if again := b.roomIn(p); again > during {
		t.Errorf("the room is %s after a restart, it was %s", again, during)
	}
	if copies, err := p.checkCopies(); err != nil || len(copies) != 1 {
		t.Errorf("%v, %v", copies, err)
	}
	if _, err := private.image.Stat(); err != nil {
		t.Error(err)
	}

	// The end of the process.
	b.must(errors.Join(private.image.Close(), private.dir.Close()))
	b.must(img.Close())
	b.must(other.close())
	p.tidy(t.Context())
	// btrfs keeps the chunks that it made for the second half.
	if after := b.roomIn(p); after < during+size/2 {
		t.Errorf("the room was %s, with the copy %s, and is %s when that is gone", before, during, after)
	}
	if left := b.leftovers(); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// Without room a check makes no copy, also when the room went while it was at it.
func TestACheckCopiesOnlyWhereThereIsRoom(t *testing.T) {
	b := newBench(t, volume.GiB, nil, "default")
	const size = 128 * volume.MiB
	v := b.mustCreate(volume.Spec{Name: "a", Size: size, Format: volume.Format{Mode: volume.ModeBlock}})
	b.fill(v.ID, 1, 0, size)
	p := b.poolNamed("default")
	other := b.checker()
	defer other.close()
	var seen int64
	b.must(other.catchUp(t.Context(), &seen))
	b.mustCreate(volume.Spec{Name: "b", Size: b.roomIn(p) - 32*volume.MiB, Format: volume.Format{Mode: volume.ModeBlock}})
	o, _ := p.lookup(v.ID)
	img, err := other.openImage(o, unix.O_RDONLY)
	b.must(err)
	defer img.Close()
	if _, err := other.privateCopy(t.Context(), o, img, &seen); !errors.Is(err, volume.ErrNoSpace) {
		t.Errorf("%v", err)
	}
	if left := b.leftovers(); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
