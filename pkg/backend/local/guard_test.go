package local

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/fault"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/pkg/workload"
)

// guarded is an engine with an overcommitted pool, whose work in the background is
// under way.
type guarded struct {
	*bench
	t      *testing.T
	heard  heard
	cancel context.CancelFunc
	done   chan struct{}
}

func newGuarded(t *testing.T, pool string, size volume.Bytes, overcommit float64, hook fault.Hook) *guarded {
	t.Helper()
	g := &guarded{bench: newBenchOn(t, pool, size, hook, "default"), t: t}
	g.cfg.Overcommit = overcommit
	g.cfg.Notice = func(r Reason, text string) {
		t.Log("notice:", r, text)
		g.heard.notice(r, text)
	}
	g.reopen()
	g.start()
	t.Cleanup(func() {
		g.stop()
		g.thawAll() // for a test that failed: a writer that waits cannot be killed
	})
	return g
}

func (g *guarded) start() {
	ctx, cancel := context.WithCancel(context.Background())
	g.cancel, g.done = cancel, make(chan struct{})
	go func(b *Backend, done chan struct{}) {
		defer close(done)
		b.Run(ctx)
	}(g.Backend, g.done)
}

func (g *guarded) stop() {
	g.cancel()
	<-g.done
}

func (g *guarded) thawAll() {
	for id := range g.slots[0].opened().filesystemVolumes() {
		if _, err := thawVolume(context.Background(), id, ""); err != nil {
			g.t.Error(err)
		}
	}
}

func filesystemSpec(name string, t volume.FSType, size volume.Bytes) volume.Spec {
	return volume.Spec{Name: name, Size: size, Format: volume.Format{Mode: volume.ModeFilesystem, FSType: t, SectorSize: 4096}}
}

// mountAt attaches and mounts a volume for the rest of the test.
func (g *guarded) mountAt(v volume.Volume) (dir string) {
	g.t.Helper()
	dev, err := g.Attach(g.t.Context(), v.ID)
	if err != nil {
		g.t.Fatal(err)
	}
	defer dev.Close()
	dir = filepath.Join(g.t.TempDir(), "mount")
	if err := os.Mkdir(dir, 0o700); err != nil {
		g.t.Fatal(err)
	}
	options := ""
	if v.Format.FSType == volume.XFS {
		options = "nouuid"
	}
	if err := unix.Mount(dev.Path, dir, string(v.Format.FSType), 0, options); err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }) // most tests have unmounted it by then
	return dir
}

// unmount unmounts and detaches as NodeUnstageVolume does.
func (g *guarded) unmount(id volume.ID, dir string) {
	g.t.Helper()
	if err := unix.Unmount(dir, 0); err != nil {
		g.t.Fatal(err)
	}
	if err := g.Detach(g.t.Context(), id); err != nil {
		g.t.Fatal(err)
	}
}

// spare makes a volume with data in it that a test can delete to make room.
func (g *guarded) spare(name string, size volume.Bytes) volume.ID {
	g.t.Helper()
	v := g.create(filesystemSpec(name, volume.Ext4, 2*size))
	dir := g.mountAt(v)
	if err := workload.Write(filepath.Join(dir, "data"), 1, size, true); err != nil {
		g.t.Fatal(err)
	}
	g.unmount(v.ID, dir)
	return v.ID
}

func (g *guarded) remove(id volume.ID) {
	g.t.Helper()
	if err := g.DeleteVolume(g.t.Context(), id); err != nil {
		g.t.Fatal(err)
	}
}

// waitFrozen waits until the guard has frozen the pool.
func (g *guarded) waitFrozen(f filler) {
	g.t.Helper()
	within(g.t, 60*time.Second, "the guard freezes", func() bool {
		if f != nil {
			if files, err := f.Files(); err != nil {
				g.t.Fatalf("a writer met an error after %d files: %v", files, err)
			}
		}
		return g.poolNamed("default").guard.isFrozen()
	})
}

// mustWait demands that a writer is stopped and was told of no error.
func (g *guarded) mustWait(f filler) {
	g.t.Helper()
	files := func() int {
		n, err := f.Files()
		if err != nil {
			g.t.Fatalf("the writer met an error after %d files: %v", n, err)
		}
		return n
	}
	var before int
	within(g.t, soon, "the writer stands still", func() bool { // what is under way ends
		before = files()
		time.Sleep(500 * time.Millisecond)
		return files() == before && g.poolNamed("default").guard.isFrozen()
	})
	sp, err := g.poolNamed("default").store.space()
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Logf("frozen with %s free, cover %s, after %d files", sp.Free, sp.Cover, before)
}

// ioErrors are the kernel's complaints since an instant about a loop device that
// could not write. It needs the right to read the kernel's log.
func ioErrors(t *testing.T, since time.Time, device string) []string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "dmesg", "--since", since.Format(time.DateTime)).Output()
	if err != nil {
		t.Logf("NOT TESTED whether the kernel met I/O errors, for its log cannot be read: %v", err)
		return nil
	}
	var found []string
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, device+",") && strings.Contains(line, "error") {
			found = append(found, strings.TrimSpace(line))
		}
	}
	return found
}
