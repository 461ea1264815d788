package local

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/command"
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

// meddler does something whenever a program has ended.
type meddler struct {
	command.Runner
	do func()
}

func (m meddler) Run(ctx context.Context, argv ...string) ([]byte, error) {
	out, err := m.Runner.Run(ctx, argv...)
	m.do()
	return out, err
}

// A fault is told also when the copy that it was found in is gone.
func TestAFaultIsToldWhateverHappensToTheCopy(t *testing.T) {
	b := newBench(t, volume.GiB, nil, "default")
	v := b.mustCreate(formatted("damaged", volume.Ext4))
	f, err := os.OpenFile(b.inPool(objectDir(v.ID), dataDir, imageFile), os.O_RDWR, 0)
	b.must(err)
	_, err = f.WriteAt([]byte(strings.Repeat("damage", 64*4096/6)), 20*4096)
	b.must(errors.Join(err, f.Sync(), f.Close()))
	p := b.poolNamed("default")
	meddle := func() {
		copies, err := p.checkCopies()
		b.must(err)
		for _, c := range copies {
			b.must(p.discard(stagingDir + "/" + c.name))
		}
	}
	out, err := Check(t.Context(), Checking{StateDir: b.cfg.StateDir, Runner: meddler{command.New(), meddle}, Filesystems: true})
	b.must(err)
	if len(out[0].Findings) != 1 || !strings.Contains(out[0].Findings[0].What, "is damaged") {
		t.Errorf("%+v", out[0])
	}
}

// While a driver serves the pool, nothing that a pod may want is locked for as long
// as a program looks through it.
func TestACheckWithoutRoomLocksNothing(t *testing.T) {
	b := newBench(t, volume.GiB, nil, "default")
	v := b.mustCreate(formatted("a", volume.Ext4))
	b.mustCreate(volume.Spec{Name: "b", Size: b.roomIn(b.poolNamed("default")) - 32*volume.MiB, Format: volume.Format{Mode: volume.ModeBlock}})
	ran := 0
	look := func() PoolCheck {
		out, err := Check(t.Context(), Checking{StateDir: b.cfg.StateDir, Runner: meddler{command.New(), func() { ran++ }}, Filesystems: true})
		b.must(err)
		return out[0]
	}
	if c := look(); ran > 0 || len(c.Findings) != 1 || c.Findings[0].Object != string(v.ID) || c.Problems() > 0 || !strings.Contains(c.Findings[0].What, "no room") {
		t.Errorf("%d programs ran: %+v", ran, c)
	}
	b.must(b.Close())
	if c := look(); ran == 0 || len(c.Findings) > 0 || c.Filesystems != 1 {
		t.Errorf("without a driver %d programs ran: %+v", ran, c)
	}
	b.open()
}
