package local

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/pkg/workload"
)

// TestWithoutTheGuardTheWriterMeetsAnError is why there is a guard, and that the
// test above can fail.
func TestWithoutTheGuardTheWriterMeetsAnError(t *testing.T) {
	onEach(t, withoutTheGuardTheWriterMeetsAnError)
}

func withoutTheGuardTheWriterMeetsAnError(t *testing.T, pool string) {
	off := errors.New("the guard is switched off")
	g := newGuarded(t, pool, 1280*volume.MiB, 10, func(step string) error {
		if step == "guard/freeze" {
			return off
		}
		return nil
	})
	spare := g.spare("spare", 100*volume.MiB)
	v := g.create(filesystemSpec("v", volume.Ext4, 6*volume.GiB))
	dir := g.mountAt(v)
	device, began := fmt.Sprintf("loop%d", attachedAs(t, v.ID).Index), time.Now()
	f := startFill(t, dir, workload.Buffered)
	var err error
	within(t, 2*time.Minute, "the writer meets an error", func() bool { _, err = f.Files(); return err != nil })
	t.Logf("the writer met: %v", err)
	for _, line := range ioErrors(t, began, device) {
		t.Logf("the kernel says: %s", line)
	}
	if len(g.heard.about(GuardFailed)) == 0 {
		t.Error("nobody was told that the guard does not work")
	}
	g.remove(spare)
	if _, err := f.Stop(); err == nil {
		t.Error("the error was forgotten")
	}
}

// TestAFullPoolIsNotFrozenIfNothingMoreIsNeeded: a pool that is full by promise.
func TestAFullPoolIsNotFrozenIfNothingMoreIsNeeded(t *testing.T) {
	onEach(t, aFullPoolIsNotFrozenIfNothingMoreIsNeeded)
}

func aFullPoolIsNotFrozenIfNothingMoreIsNeeded(t *testing.T, pool string) {
	g := newGuarded(t, pool, volume.GiB, 1, nil)
	room, err := g.poolNamed("default").room()
	if err != nil {
		t.Fatal(err)
	}
	v := g.create(filesystemSpec("v", volume.Ext4, room))
	dir := g.mountAt(v)
	f := startFill(t, dir, workload.Buffered)
	within(t, time.Minute, "the volume is full", func() bool { _, err = f.Files(); return errors.Is(err, unix.ENOSPC) })
	n, _ := f.Stop()
	g.mustHaveAll(dir, workload.Buffered, n-1)
	sp, err := g.poolNamed("default").store.space()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the volume is full with %s, the pool has %s free", room, sp.Free)
	time.Sleep(time.Second)
	if said := g.heard.about(GuardFroze); len(said) > 0 {
		t.Errorf("frozen without need: %v", said)
	}
	// Overwriting in place works to the last.
	if err := os.WriteFile(filepath.Join(dir, "00000/000"), make([]byte, 8<<20), 0o600); err != nil {
		t.Error(err)
	}
}

// TestAPromiseThatSomethingElseBreaksFreezes: a file of somebody else takes the
// space that was promised.
func TestAPromiseThatSomethingElseBreaksFreezes(t *testing.T) {
	onEach(t, aPromiseThatSomethingElseBreaksFreezes)
}

func aPromiseThatSomethingElseBreaksFreezes(t *testing.T, pool string) {
	g := newGuarded(t, pool, volume.GiB, 1, nil)
	p := g.poolNamed("default")
	v := g.create(filesystemSpec("v", volume.XFS, 400*volume.MiB))
	dir := g.mountAt(v)
	sp, err := p.store.space()
	if err != nil {
		t.Fatal(err)
	}
	foreign := filepath.Join(p.dir.Name(), "foreign")
	file, err := os.Create(foreign)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(unix.Fallocate(int(file.Fd()), 0, 0, int64(sp.Free-200*volume.MiB)), file.Close()); err != nil {
		t.Fatal(err)
	}
	f := startFill(t, dir, workload.Direct)
	g.waitFrozen(f)
	g.mustWait(f)
	if err := os.Remove(foreign); err != nil {
		t.Fatal(err)
	}
	if err := p.store.commit(); err != nil {
		t.Fatal(err)
	}
	within(t, time.Minute, "the volume is full", func() bool { _, err = f.Files(); return err != nil })
	if !errors.Is(err, unix.ENOSPC) {
		t.Error(err)
	}
	n, _ := f.Stop()
	g.mustHaveAll(dir, workload.Direct, n-1)
}

// TestAVolumeThatIsFrozenIsUnstagedAndDeleted: which makes the room that the others
// wait for.
func TestAVolumeThatIsFrozenIsUnstagedAndDeleted(t *testing.T) {
	onEach(t, aVolumeThatIsFrozenIsUnstagedAndDeleted)
}

func aVolumeThatIsFrozenIsUnstagedAndDeleted(t *testing.T, pool string) {
	g := newGuarded(t, pool, 1280*volume.MiB, 10, nil)
	for _, fsType := range []volume.FSType{volume.Ext4, volume.XFS} {
		idle := g.create(filesystemSpec("idle", fsType, volume.GiB))
		dir := g.mountAt(idle)
		if err := workload.Write(filepath.Join(dir, "data"), 1, 300*volume.MiB, true); err != nil {
			t.Fatal(err)
		}
		v := g.create(filesystemSpec("v-"+string(fsType), fsType, 6*volume.GiB))
		busy := g.mountAt(v)
		f := startFill(t, busy, workload.Buffered)
		g.waitFrozen(f)
		g.mustWait(f)
		if _, err := g.Attach(t.Context(), idle.ID); !errors.Is(err, volume.ErrUnavailable) {
			t.Errorf("a volume was attached while it is frozen: %v", err)
		}
		before, _ := f.Files()
		g.unmount(idle.ID, dir)
		g.remove(idle.ID)
		within(t, 10*time.Second, "the other writer goes on", func() bool { n, _ := f.Files(); return n > before })
		if _, err := f.Stop(); err != nil {
			t.Error(err)
		}
		g.unmount(v.ID, busy)
		g.remove(v.ID)
		within(t, soon, "the trash is empty", func() bool { return len(g.leftovers()) == 0 })
	}
}

// TestWhatIsFrozenStaysSoWithoutItsDriver: neither the watchdog nor the next driver
// thaws it before there is space, and then it is thawed.
func TestWhatIsFrozenStaysSoWithoutItsDriver(t *testing.T) {
	onEach(t, whatIsFrozenStaysSoWithoutItsDriver)
}

func whatIsFrozenStaysSoWithoutItsDriver(t *testing.T, pool string) {
	g := newGuarded(t, pool, 1280*volume.MiB, 10, nil)
	spare := g.spare("spare", 300*volume.MiB)
	for _, fsType := range []volume.FSType{volume.Ext4, volume.XFS} {
		v := g.create(filesystemSpec("v-"+string(fsType), fsType, 6*volume.GiB))
		dir := g.mountAt(v)
		f := startFill(t, dir, workload.Buffered)
		g.waitFrozen(f)
		g.mustWait(f)
		g.stop()
		// What a driver leaves that dies in a snapshot.
		held, err := g.intents.write(t.Context(), v.ID, fsType)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(held.file.Close(), g.Close()); err != nil {
			t.Fatal(err)
		}
		_, stop := g.watch(time.Second)
		time.Sleep(2500 * time.Millisecond)
		g.mustStandStill(f)
		stop()
		g.open()
		g.start()
		g.mustStandStill(f)
		if !g.poolNamed("default").guard.isFrozen() {
			t.Error("the next driver does not know that the pool is frozen")
		}
		if fsType == volume.Ext4 {
			// Unmounted while it is frozen and nobody runs, it is let go too.
			g.remove(spare)
		} else if err := g.DeleteVolume(t.Context(), g.named("v-ext4")); err != nil {
			t.Fatal(err)
		}
		n, _ := f.Files()
		within(t, soon, "the writer goes on", func() bool { now, _ := f.Files(); return now > n })
		files, err := f.Stop()
		if err != nil {
			t.Error(err)
		}
		g.mustHaveAll(dir, workload.Buffered, files)
		g.unmount(v.ID, dir)
	}
}

func (g *guarded) named(name string) volume.ID {
	return volume.NewID(volume.KindVolume, g.poolNamed("default").id, name)
}

func (g *guarded) mustStandStill(f filler) {
	g.t.Helper()
	before, err := f.Files()
	if err != nil {
		g.t.Fatalf("the writer met an error: %v", err)
	}
	time.Sleep(500 * time.Millisecond)
	if after, err := f.Files(); after != before || err != nil {
		g.t.Fatalf("the writer goes on: %d files, then %d, %v", before, after, err)
	}
}

// TestAWriterThatWasKilledEnds: a breath lets it, or its pod could not be deleted.
func TestAWriterThatWasKilledEnds(t *testing.T) {
	onEach(t, aWriterThatWasKilledEnds)
}

func aWriterThatWasKilledEnds(t *testing.T, pool string) {
	g := newGuarded(t, pool, 1280*volume.MiB, 10, nil)
	v := g.create(filesystemSpec("v", volume.Ext4, 6*volume.GiB))
	dir := g.mountAt(v)
	cmd := exec.Command("dd", "if=/dev/zero", "of="+filepath.Join(dir, "x"), "bs=1M")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	g.waitFrozen(nil)
	time.Sleep(500 * time.Millisecond)
	start := time.Now()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		t.Logf("the writer ended %s after it was killed: %v", time.Since(start), err)
	case <-time.After(3 * firstBreath):
		t.Fatal("the writer cannot be killed")
	}
	if !g.poolNamed("default").guard.isFrozen() {
		t.Error("the pool is not frozen any more")
	}
	g.unmount(v.ID, dir)
	g.remove(v.ID)
}

func TestWhatSomebodyThawsIsFrozenAgain(t *testing.T) {
	onEach(t, whatSomebodyThawsIsFrozenAgain)
}

func whatSomebodyThawsIsFrozenAgain(t *testing.T, pool string) {
	g := newGuarded(t, pool, 1280*volume.MiB, 10, nil)
	v := g.create(filesystemSpec("v", volume.XFS, 6*volume.GiB))
	dir := g.mountAt(v)
	f := startFill(t, dir, workload.Mapped)
	g.waitFrozen(f)
	g.mustWait(f)
	if _, err := thawVolume(t.Context(), v.ID, volume.XFS); err != nil { // as fsfreeze -u does
		t.Fatal(err)
	}
	g.mustWait(f)
	g.thawForGood(f)
	g.unmount(v.ID, dir)
}

// thawForGood makes room by deleting from the pool what is not ours to delete.
func (g *guarded) thawForGood(f filler) {
	g.t.Helper()
	p := g.poolNamed("default")
	if err := p.root.Remove(ballastFile); err != nil {
		g.t.Fatal(err)
	}
	g.stop()
	g.thawAll()
	if _, err := f.Stop(); err != nil {
		g.t.Error(err)
	}
	g.start()
}

// TestBlockVolumesAreNotOvercommitted: they cannot be frozen.
func TestBlockVolumesAreNotOvercommitted(t *testing.T) {
	onEach(t, func(t *testing.T, pool string) {
		g := newGuarded(t, pool, 1280*volume.MiB, 10, nil)
		if _, err := g.CreateVolume(t.Context(), sized(blockSpec("large"), 2*volume.GiB)); !errors.Is(err, volume.ErrNoSpace) {
			t.Errorf("a block volume larger than the pool is promised: %v", err)
		}
		b := g.create(sized(blockSpec("b"), 300*volume.MiB))
		if _, err := g.ExpandVolume(t.Context(), b.ID, 2*volume.GiB, 0); !errors.Is(err, volume.ErrOutOfRange) {
			t.Errorf("a block volume grows beyond the pool: %v", err)
		}
		dev, err := g.Attach(t.Context(), b.ID)
		if err != nil {
			t.Fatal(err)
		}
		v, dir, f := g.filledUp()
		// All of it has a place, although the pool is full for everybody else.
		if err := workload.Write(dev.Path, 3, b.Size, true); err != nil {
			t.Error(err)
		}
		if err := errors.Join(workload.Verify(dev.Path, 3, b.Size), dev.Close(), g.Detach(t.Context(), b.ID)); err != nil {
			t.Error(err)
		}
		// On btrfs the chunks that it took can leave more covered than was thought.
		g.waitFrozen(f)
		g.mustWait(f)
		g.remove(b.ID)
		files, err := f.Stop()
		if err != nil {
			t.Errorf("the writer met an error: %v", err)
		}
		g.mustHaveAll(dir, workload.Buffered, files)
		g.unmount(v.ID, dir)
	})
}

// filledUp is a pool that is full, and frozen, by what somebody writes to a volume.
func (g *guarded) filledUp() (v volume.Volume, dir string, f filler) {
	g.t.Helper()
	v = g.create(filesystemSpec("v", volume.XFS, 6*volume.GiB))
	dir = g.mountAt(v)
	f = startFill(g.t, dir, workload.Buffered)
	g.waitFrozen(f)
	g.mustWait(f)
	return v, dir, f
}

// TestWhatABlockVolumeWritesWhileTheGuardLooksThawsNothing: what it has taken since
// must not count as room.
func TestWhatABlockVolumeWritesWhileTheGuardLooksThawsNothing(t *testing.T) {
	onEach(t, func(t *testing.T, pool string) {
		g := newGuarded(t, pool, 1280*volume.MiB, 10, nil)
		b := g.create(sized(blockSpec("b"), 300*volume.MiB))
		dev, err := g.Attach(t.Context(), b.ID)
		if err != nil {
			t.Fatal(err)
		}
		v, dir, f := g.filledUp()
		g.stop() // from here on it looks when this test says so
		p := g.poolNamed("default")
		whole, writing := p.store, true
		p.store = measuredThen{whole, func() {
			if writing {
				writing = false
				if err := workload.Write(dev.Path, 3, b.Size, true); err != nil {
					t.Error(err)
				}
			}
		}}
		for range 3 {
			p.guard.owesAt = time.Time{}
			p.guard.watch(t.Context())
			if p.guard.isFrozen() {
				continue
			}
			sp, err := whole.space()
			if reserve, _ := p.guard.lastReserve(); sp.Cover < reserve || err != nil {
				t.Errorf("the guard has thawed a pool with room for %s, and a reserve of %s is needed: %v", sp.Cover, reserve, err)
			}
		}
		p.store = whole
		g.start()
		if err := errors.Join(dev.Close(), g.Detach(t.Context(), b.ID)); err != nil {
			t.Error(err)
		}
		g.remove(b.ID)
		if _, err := f.Stop(); err != nil {
			t.Errorf("the writer met an error: %v", err)
		}
		g.unmount(v.ID, dir)
	})
}

// measuredThen is a store in which something happens right after each measurement
// of its space.
type measuredThen struct {
	store
	then func()
}

func (m measuredThen) space() (space, error) {
	sp, err := m.store.space()
	m.then()
	return sp, err
}

func sized(s volume.Spec, size volume.Bytes) volume.Spec {
	s.Size = size
	return s
}
