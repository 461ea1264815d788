package local

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/filesystem"
	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// mounted makes a volume with a filesystem that is mounted, nowhere, for the rest
// of the test, and opens its root.
func (b *bench) mounted(name string, fsType volume.FSType) (volume.ID, *os.File) {
	b.t.Helper()
	size := 64 * volume.MiB
	if fsType == volume.XFS {
		size = 300 * volume.MiB
	}
	v := b.create(volume.Spec{Name: name, Size: size, Format: volume.Format{Mode: volume.ModeFilesystem, FSType: fsType, SectorSize: 4096}})
	dev, err := b.Attach(b.t.Context(), v.ID)
	if err != nil {
		b.t.Fatal(err)
	}
	defer dev.Hold.Close()
	d, err := openTagged(&loop.Index{}, v.ID)
	if err != nil || d == nil {
		b.t.Fatalf("no loop device: %v", err)
	}
	defer d.Close()
	root, err := mountedRoot(b.t.Context(), d, fsType)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		// For a test that failed: an unmount would hang.
		if err := errors.Join(filesystem.Thaw(root), root.Close()); err != nil {
			b.t.Error(err)
		}
	})
	return v.ID, root
}

func (b *bench) snapshot(name string, id volume.ID) error {
	_, err := b.CreateSnapshot(b.t.Context(), volume.SnapshotSpec{Name: name, Source: id})
	return err
}

// watch runs a Watchdog until stop, and keeps its notices.
func (b *bench) watch(timeout time.Duration) (notices func() []string, stop func()) {
	b.t.Helper()
	var mu sync.Mutex
	var said []string
	w, err := NewWatchdog(WatchdogConfig{StateDir: b.cfg.StateDir, FreezeTimeout: timeout, Notice: func(r Reason, text string) {
		mu.Lock()
		defer mu.Unlock()
		said = append(said, string(r)+": "+text)
	}})
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.Run(ctx)
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		<-done
		if err := w.Close(); err != nil {
			b.t.Error(err)
		}
	})
	b.t.Cleanup(stop)
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return append([]string(nil), said...)
	}, stop
}

// isFrozen looks without changing: a second freeze is refused.
func isFrozen(t *testing.T, root *os.File) bool {
	t.Helper()
	err := filesystem.Freeze(root)
	if errors.Is(err, volume.ErrBusy) {
		return true
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := filesystem.Thaw(root); err != nil {
		t.Fatal(err)
	}
	return false
}

// soon is ample for a watchdog or an engine on a busy machine.
const soon = 15 * time.Second

func within(t *testing.T, limit time.Duration, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", limit, what)
		}
	}
}

func TestTheWatchdogThawsForADriverThatDiedAndNothingElse(t *testing.T) {
	b := newBench(t, 2*volume.GiB, nil, "default")
	for _, fsType := range []volume.FSType{volume.Ext4, volume.XFS} {
		id, root := b.mounted("a-"+string(fsType), fsType)
		_, other := b.mounted("b-"+string(fsType), fsType)
		held, err := b.intents.write(t.Context(), id, fsType)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range []*os.File{root, other} {
			if err := filesystem.Freeze(r); err != nil {
				t.Fatal(err)
			}
		}
		notices, stop := b.watch(DefaultFreezeTimeout)
		time.Sleep(2 * watchInterval)
		if !isFrozen(t, root) {
			t.Fatal("the freeze of a driver that lives was ended")
		}
		if err := held.end(false); err != nil { // as by its death
			t.Fatal(err)
		}
		within(t, soon, "a thaw", func() bool { return len(notices()) > 0 })
		if isFrozen(t, root) || !isFrozen(t, other) {
			t.Error("it must thaw the one that has an intent, and no other")
		}
		stop()
		if said := notices(); len(said) != 1 || !strings.HasPrefix(said[0], "FreezeThawed: ") || !strings.Contains(said[0], string(id)) {
			t.Errorf("it said %q", said)
		}
		if left, err := b.intents.list(); err != nil || len(left) > 0 {
			t.Errorf("intents left: %v, %v", left, err)
		}
	}
}

func TestTheWatchdogLeavesASnapshotAlone(t *testing.T) {
	b := newBench(t, volume.GiB, func(step string) error {
		if step == "freeze/frozen" {
			time.Sleep(3 * watchInterval)
		}
		return nil
	}, "default")
	notices, _ := b.watch(DefaultFreezeTimeout)
	id, _ := b.mounted("a", volume.Ext4)
	if err := b.snapshot("s", id); err != nil {
		t.Error(err)
	}
	if said := notices(); len(said) > 0 {
		t.Errorf("it said %q", said)
	}
}

// A driver that is stopped in the middle of a freeze cannot tell; here it is told
// nothing while the watchdog does its work.
func TestASnapshotWhoseFreezeWasBrokenIsNotUsed(t *testing.T) {
	var b *bench
	var id volume.ID
	var root *os.File
	var meanwhile func() error
	b = newBench(t, volume.GiB, func(step string) error {
		if step != "freeze/frozen" || meanwhile == nil {
			return nil
		}
		return meanwhile()
	}, "default")
	id, root = b.mounted("a", volume.XFS)
	breakIt := func() error {
		_, frozen, err := b.intents.breakFreeze(t.Context(), id, 0)
		if err == nil && !frozen {
			err = errors.New("there was nothing to thaw")
		}
		return err
	}
	for name, what := range map[string]func() error{
		"thawed by the watchdog":                  breakIt,
		"thawed by the watchdog and frozen again": func() error { return errors.Join(breakIt(), filesystem.Freeze(root)) },
		"thawed by hand":                          func() error { return filesystem.Thaw(root) },
	} {
		meanwhile = what
		if err := b.snapshot(name, id); !errors.Is(err, volume.ErrUnavailable) || !strings.Contains(err.Error(), "not used") {
			t.Errorf("%s: %v", name, err)
		}
		if isFrozen(t, root) {
			t.Errorf("%s: it is frozen", name)
		}
		meanwhile = nil
		if err := b.snapshot(name, id); err != nil {
			t.Errorf("%s: the same call again: %v", name, err)
		}
	}
	if left := b.leftovers(); len(left) > 0 {
		t.Error(left)
	}
}

func TestAFreezeThatBeginsAfterItsTimeIsEndedToo(t *testing.T) {
	b := newBench(t, volume.GiB, nil, "default")
	id, root := b.mounted("a", volume.Ext4)
	held, err := b.intents.write(t.Context(), id, volume.Ext4)
	if err != nil {
		t.Fatal(err)
	}
	const timeout = 100 * time.Millisecond
	notices, _ := b.watch(timeout)
	within(t, soon, "the mark", func() bool { broken, err := held.broken(); return broken && err == nil })
	if err := filesystem.Freeze(root); err != nil { // its driver wakes up
		t.Fatal(err)
	}
	within(t, soon, "a thaw", func() bool { return len(notices()) > 0 })
	if isFrozen(t, root) {
		t.Error("it is frozen")
	}
	if said := notices(); !strings.Contains(said[0], "lives") {
		t.Errorf("it said %q", said)
	}
	if err := held.end(true); err != nil {
		t.Fatal(err)
	}
}

func TestAnIntentThatAnotherPartyHoldsIsNotReplaced(t *testing.T) {
	b := newBench(t, volume.GiB, nil, "default")
	id, _ := b.mounted("a", volume.Ext4)
	held, err := b.intents.write(t.Context(), id, volume.Ext4)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.snapshot("s", id); !errors.Is(err, volume.ErrBusy) {
		t.Errorf("got %v", err)
	}
	time.AfterFunc(intentPatience/4, func() {
		if err := held.end(false); err != nil {
			t.Error(err)
		}
	})
	if err := b.snapshot("s", id); err != nil {
		t.Errorf("the other party had finished in time: %v", err)
	}
}

func TestAnIntentThatLostItsNameIsNobodysBusiness(t *testing.T) {
	b := newBench(t, volume.GiB, nil, "default")
	id, _ := b.mounted("a", volume.Ext4)
	first, err := b.intents.write(t.Context(), id, volume.Ext4)
	if err != nil {
		t.Fatal(err)
	}
	// Somebody opens it, and it ends and another one begins before they lock it.
	late, err := b.intents.open(id)
	if err != nil {
		t.Fatal(err)
	}
	defer late.Close()
	if err := first.end(true); err != nil {
		t.Fatal(err)
	}
	second, err := b.intents.write(t.Context(), id, volume.Ext4)
	if err != nil {
		t.Fatal(err)
	}
	if ours, err := b.intents.take(late, id); ours || err != nil {
		t.Errorf("the second intent was taken for the first: %v", err)
	}
	if err := markBroken(late); err != nil {
		t.Fatal(err)
	}
	if broken, err := second.broken(); broken || err != nil {
		t.Errorf("a mark for the first intent reached the second: %v", err)
	}
	if err := second.end(true); err != nil {
		t.Fatal(err)
	}
}

// Snapshots, and a watchdog that finds every freeze too old, at the same time: no
// snapshot succeeds whose freeze was ended by it, and nothing stays frozen.
func TestAWatchdogWithoutPatienceHarmsNothing(t *testing.T) {
	b := newBench(t, 3*volume.GiB, nil, "default")
	id, root := b.mounted("a", volume.XFS)
	stop := make(chan struct{})
	var broken atomic.Int32
	var group sync.WaitGroup
	for range 2 {
		group.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(rand.N(150 * time.Millisecond)):
				}
				if _, err := b.intents.thawLeft(t.Context(), id); err != nil {
					t.Error(err)
				}
				_, frozen, err := b.intents.breakFreeze(t.Context(), id, 0)
				if err != nil {
					t.Error(err)
				}
				if frozen {
					broken.Add(1)
				}
			}
		})
	}
	failed, took := int32(0), 0
	begun := time.Now()
	both := func() bool { return broken.Load() > 0 && took > 0 }
	for time.Since(begun) < 4*time.Second || !both() && time.Since(begun) < time.Minute {
		name := fmt.Sprintf("s-%d", took)
		switch err := b.snapshot(name, id); {
		case err == nil:
			took++
			snap := volume.NewID(volume.KindSnapshot, id.Pool(), name)
			if err := b.DeleteSnapshot(t.Context(), snap); err != nil {
				t.Error(err)
			}
		case errors.Is(err, volume.ErrUnavailable):
			failed++
		default:
			t.Error(err)
		}
	}
	close(stop)
	group.Wait()
	t.Logf("%d snapshots, %d failed, %d freezes were ended", took, failed, broken.Load())
	if broken.Load() > failed {
		t.Errorf("%d freezes were ended, and only %d snapshots failed", broken.Load(), failed)
	}
	if !both() {
		t.Error("one of the two always won")
	}
	if isFrozen(t, root) {
		t.Error("it is frozen")
	}
	if left := b.leftovers(); len(left) > 0 {
		t.Error(left)
	}
}
