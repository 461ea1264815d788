package local

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// takeSpace takes so much space of a pool away with a file of somebody else, until
// giveBack.
func (g *guarded) takeSpace(name string, size volume.Bytes) (giveBack func()) {
	g.t.Helper()
	p := g.poolNamed("default")
	path := filepath.Join(p.dir.Name(), name)
	file, err := os.Create(path)
	if err != nil {
		g.t.Fatal(err)
	}
	if err := errors.Join(unix.Fallocate(int(file.Fd()), 0, 0, int64(size)), file.Close(), p.store.commit()); err != nil {
		g.t.Fatal(err)
	}
	return func() {
		g.t.Helper()
		if err := errors.Join(os.Remove(path), p.store.commit()); err != nil {
			g.t.Fatal(err)
		}
	}
}

func (g *guarded) cover() volume.Bytes {
	g.t.Helper()
	sp, err := g.poolNamed("default").store.space()
	if err != nil {
		g.t.Fatal(err)
	}
	return sp.Cover
}

// TestAPromiseThatHoldsAgainThaws: a pool that is full by promise never has more
// than it owes.
func TestAPromiseThatHoldsAgainThaws(t *testing.T) {
	onEach(t, func(t *testing.T, pool string) {
		g := newGuarded(t, pool, volume.GiB, 1, nil)
		v := g.create(filesystemSpec("v", volume.Ext4, 100*volume.MiB))
		dir := g.mountAt(v)
		const spare = 20 * volume.MiB
		for i := 0; g.cover() > v.Size+2*spare; i++ { // the cover is not linear
			g.takeSpace(fmt.Sprint("most", i), (g.cover()-v.Size-spare)*9/10)
		}
		time.Sleep(2 * watchIdle)
		if said := g.heard.about(GuardFroze); len(said) > 0 {
			t.Fatalf("frozen although %s are covered: %v", g.cover(), said)
		}
		giveBack := g.takeSpace("more", g.cover()-v.Size/2)
		g.waitFrozen(nil)
		giveBack()
		t.Logf("%s are covered again", g.cover())
		within(t, soon, "thawed", func() bool { return !g.poolNamed("default").guard.isFrozen() })
		if err := os.WriteFile(filepath.Join(dir, "x"), make([]byte, volume.MiB), 0o600); err != nil {
			t.Error(err)
		}
		// And if nobody is left who could write.
		giveBack = g.takeSpace("more", g.cover()-v.Size/2)
		g.waitFrozen(nil)
		g.unmount(v.ID, dir)
		within(t, soon, "nothing is frozen without volumes", func() bool { return !g.poolNamed("default").guard.isFrozen() })
		giveBack()
	})
}

// TestALoweredOvercommitDoesNotMakeThePoolPromiseLess: what was promised before is
// guarded as before.
func TestALoweredOvercommitDoesNotMakeThePoolPromiseLess(t *testing.T) {
	g := newGuarded(t, FilesystemXFS, volume.GiB, 10, nil)
	v := g.create(filesystemSpec("v", volume.Ext4, 4*volume.GiB))
	g.stop()
	g.cfg.Overcommit = 1
	g.reopen()
	g.start()
	within(t, soon, "it is known", func() bool { return g.poolNamed("default").overpromised() })
	if g.poolNamed("default").overcommitted() {
		t.Error("it still overcommits")
	}
	g.remove(v.ID)
	within(t, soon, "it is over", func() bool { return !g.poolNamed("default").overpromised() })
}
