package local

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// TestOneSlowFreezeHoldsUpNobody: the guard goes on with the others.
func TestOneSlowFreezeHoldsUpNobody(t *testing.T) {
	release := make(chan struct{})
	var calls atomic.Int32
	g := newGuarded(t, FilesystemXFS, volume.GiB, 10, func(step string) error {
		if step == "guard/freeze" && calls.Add(1) == 1 {
			<-release
		}
		return nil
	})
	let := func() {
		select {
		case <-release:
		default:
			close(release)
		}
	}
	t.Cleanup(let)
	a, b := g.create(filesystemSpec("a", volume.Ext4, 2*volume.GiB)), g.create(filesystemSpec("b", volume.Ext4, 2*volume.GiB))
	dirA, dirB := g.mountAt(a), g.mountAt(b)
	giveBack := g.takeSpace("most", g.cover()-50*volume.MiB)
	g.waitFrozen(nil)
	frozen := func() (n int) {
		guard := g.poolNamed("default").guard
		guard.mu.Lock()
		defer guard.mu.Unlock()
		for _, w := range guard.wards {
			if !w.busy && w.frozen {
				n++
			}
		}
		return n
	}
	within(t, soon, "one is frozen", func() bool { return frozen() == 1 })
	time.Sleep(lookAgain + time.Second)
	giveBack()
	within(t, soon, "the other is thawed", func() bool { return !g.poolNamed("default").guard.isFrozen() && frozen() == 0 })
	let()
	g.unmount(a.ID, dirA)
	g.unmount(b.ID, dirB)
}

// TestAVolumeThatIsAttachedWhileTheGuardLooksAroundIsUnderGuard: what it saw is old
// by then.
func TestAVolumeThatIsAttachedWhileTheGuardLooksAroundIsUnderGuard(t *testing.T) {
	var meanwhile func()
	b := newBench(t, volume.GiB, func(step string) error {
		if do := meanwhile; step == "guard/looked" && do != nil {
			meanwhile = nil
			do()
		}
		return nil
	}, "default")
	v := b.create(filesystemSpec("v", volume.Ext4, 64*volume.MiB))
	guard := b.poolNamed("default").guard
	meanwhile = func() {
		dev, err := b.Attach(t.Context(), v.ID)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := dev.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	if done, err := guard.lookAround(t.Context()); !done || err != nil {
		t.Fatalf("done %t, %v", done, err)
	}
	time.Sleep(100 * time.Millisecond)
	if !guard.ids()[v.ID] {
		t.Error("the guard has forgotten it")
	}
}

// TestAVolumeThatIsAttachedWhileItIsForgottenIsUnderGuard.
func TestAVolumeThatIsAttachedWhileItIsForgottenIsUnderGuard(t *testing.T) {
	g := &guard{wards: map[volume.ID]*ward{}}
	o := object{record: record{ID: "v"}}
	g.addLocked(o, 1)
	w := g.wards["v"]
	w.busy = true
	g.addLocked(o, 2)
	if err := g.drop(w); err != nil {
		t.Fatal(err)
	}
	g.unseize(w)
	if got := g.wards["v"]; got == nil || got.index != 2 || got.busy {
		t.Errorf("the guard knows %+v", got)
	}
	w.busy = true
	if err := g.drop(w); err != nil || len(g.wards) > 0 {
		t.Errorf("one that was not attached again is not forgotten: %v", err)
	}
}

// TestABoundThatIsNoneIsWrittenOnce: a thousand volumes need no work for nothing.
func TestABoundThatIsNoneIsWrittenOnce(t *testing.T) {
	now := time.Now()
	old := now.Add(-2 * dirtyAgain)
	for _, c := range []struct {
		limit, want volume.Bytes
		at          time.Time
		done        bool
	}{
		{0, 0, time.Time{}, false}, // whoever had the index before may have left one
		{0, 0, old, true},
		{0, dirtyBound, now, false},
		{dirtyBound, dirtyBound, now, true},
		{dirtyBound, dirtyBound, old, false}, // the kernel's share follows the memory
		{dirtyBound, 0, now, false},
	} {
		w := &ward{limit: c.limit, limitAt: c.at}
		if got := w.done(plan{limit: c.want}, now); got != c.done {
			t.Errorf("%+v: done %t", c, got)
		}
	}
}
