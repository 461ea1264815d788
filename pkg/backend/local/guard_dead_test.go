package local

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/pkg/workload"
)

// TestAPoolThatDiesWhileItIsFrozenIsThawed: nothing is kept by waiting any more, and
// whoever waits cannot be killed.
func TestAPoolThatDiesWhileItIsFrozenIsThawed(t *testing.T) {
	g := newGuarded(t, FilesystemXFS, 1280*volume.MiB, 10, nil)
	v := g.create(filesystemSpec("v", volume.Ext4, 6*volume.GiB))
	dir := g.mountAt(v)
	f := startFill(t, dir, workload.Direct)
	g.waitFrozen(f)
	g.mustWait(f)
	guard := g.poolNamed("default").guard
	goDown(t, guard.pool.dir.Name())
	within(t, 2*time.Minute, "the writer is told", func() bool { _, err := f.Files(); return err != nil })
	if _, err := f.Stop(); err == nil {
		t.Error("the writer forgot its error")
	}
	if said := g.heard.about(GuardThawed); len(said) != 1 {
		t.Errorf("it was said %q", said)
	}
	within(t, soon, "no mark is left", func() bool {
		ids, err := g.Backend.marks.of(guard.pool.id)
		return err == nil && len(ids) == 0
	})
	if err := errors.Join(unix.Unmount(dir, 0), g.Detach(t.Context(), v.ID)); err != nil {
		t.Error(err)
	}
}
