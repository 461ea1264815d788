package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/fault"
	"github.com/holdfast-csi/holdfast/pkg/filesystem"
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

func newGuarded(t *testing.T, size volume.Bytes, overcommit float64, hook fault.Hook) *guarded {
	t.Helper()
	g := &guarded{bench: newBench(t, size, hook, "default"), t: t}
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
	for id := range g.poolNamed("default").filesystemVolumes() {
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
func (g *guarded) waitFrozen(f *workload.Filler) {
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
func (g *guarded) mustWait(f *workload.Filler) {
	g.t.Helper()
	time.Sleep(500 * time.Millisecond) // what is under way ends
	before, err := f.Files()
	if err != nil {
		g.t.Fatalf("the writer met an error: %v", err)
	}
	time.Sleep(300 * time.Millisecond)
	if after, err := f.Files(); after != before || err != nil {
		g.t.Fatalf("the writer goes on in a full pool: %d files, then %d, %v", before, after, err)
	}
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
		t.Logf("the kernel's log cannot be read: %v", err)
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

// TestAWriterInAFullPoolWaitsAndLosesNothing drives an overcommitted pool full,
// makes room, drives it full again, and checks every byte.
func TestAWriterInAFullPoolWaitsAndLosesNothing(t *testing.T) {
	for _, fsType := range []volume.FSType{volume.Ext4, volume.XFS} {
		for _, manner := range workload.Manners() {
			t.Run(fmt.Sprintf("%s, %s", fsType, manner), func(t *testing.T) {
				fillAndGoOn(t, fsType, manner)
			})
		}
	}
}

func fillAndGoOn(t *testing.T, fsType volume.FSType, manner workload.Manner) {
	g := newGuarded(t, 1536*volume.MiB, 10, nil)
	first, second := g.spare("first", 200*volume.MiB), g.spare("second", 200*volume.MiB)
	v := g.create(filesystemSpec("v", fsType, 6*volume.GiB))
	dir := g.mountAt(v)
	device, began := fmt.Sprintf("loop%d", attachedAs(t, v.ID).Index), time.Now()
	f := workload.StartFill(dir, manner)
	time.Sleep(300 * time.Millisecond)
	if err := g.snapshot("s", v.ID); err != nil { // what it shares is copied on write
		t.Error(err)
	}
	g.waitFrozen(f)
	g.mustWait(f)
	g.mustRefusePromises(v.ID)
	f.Stall()
	before, _ := f.Files()
	start := time.Now()
	g.remove(first)
	within(t, 10*time.Second, "the writer goes on", func() bool { n, _ := f.Files(); return n > before })
	t.Logf("the writer went on %s after the call to delete a volume", time.Since(start))
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("the writer went on only after %s", took)
	}
	g.waitFrozen(f)
	g.mustWait(f)
	g.remove(second)
	files, err := f.Stop()
	if err != nil {
		t.Errorf("the writer met an error: %v", err)
	}
	g.mustHaveAll(dir, manner, files)
	for _, line := range ioErrors(t, began, device) {
		t.Errorf("the kernel says: %s", line)
	}
	g.unmount(v.ID, dir)
	if err := g.checkFilesystem(v); err != nil {
		t.Error(err)
	}
}

// mustHaveAll checks what a writer has written, and that nothing of it got lost on
// the way to the disk.
func (g *guarded) mustHaveAll(dir string, manner workload.Manner, files int) {
	g.t.Helper()
	root, err := os.Open(dir)
	if err != nil {
		g.t.Fatal(err)
	}
	defer root.Close()
	if err := filesystem.Sync(root); err != nil {
		g.t.Error(err)
	}
	if err := workload.VerifyFill(dir, manner, files); err != nil {
		g.t.Error(err)
	}
}

func (g *guarded) checkFilesystem(v volume.Volume) error {
	dev, err := g.Attach(g.t.Context(), v.ID)
	if err != nil {
		return err
	}
	argv := []string{"e2fsck", "-fn", dev.Path}
	if v.Format.FSType == volume.XFS {
		argv = []string{"xfs_repair", "-n", dev.Path}
	}
	out, err := exec.CommandContext(g.t.Context(), argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", argv[0], err, out)
	}
	return errors.Join(err, dev.Close())
}

func (g *guarded) mustRefusePromises(id volume.ID) {
	g.t.Helper()
	ctx := g.t.Context()
	if _, err := g.CreateVolume(ctx, filesystemSpec("more", volume.Ext4, 64*volume.MiB)); !errors.Is(err, volume.ErrNoSpace) {
		g.t.Errorf("a volume is promised on a full pool: %v", err)
	}
	if err := g.snapshot("more", id); !errors.Is(err, volume.ErrNoSpace) {
		g.t.Errorf("a snapshot is promised on a full pool: %v", err)
	}
	if _, err := g.ExpandVolume(ctx, id, 8*volume.GiB, 0); !errors.Is(err, volume.ErrOutOfRange) {
		g.t.Errorf("growth is promised on a full pool: %v", err)
	}
	if c, err := g.Capacity(ctx, "", nil); err != nil || c.Available != 0 {
		g.t.Errorf("a full pool has room for %s, %v", c.Available, err)
	}
	if err := g.Refresh(ctx, id); !errors.Is(err, volume.ErrUnavailable) {
		g.t.Errorf("a frozen filesystem would be grown: %v", err)
	}
}

// TestWithoutTheGuardTheWriterMeetsAnError is why there is a guard, and that the
// test above can fail.
func TestWithoutTheGuardTheWriterMeetsAnError(t *testing.T) {
	off := errors.New("the guard is switched off")
	g := newGuarded(t, 1280*volume.MiB, 10, func(step string) error {
		if step == "guard/freeze" {
			return off
		}
		return nil
	})
	spare := g.spare("spare", 100*volume.MiB)
	v := g.create(filesystemSpec("v", volume.Ext4, 6*volume.GiB))
	dir := g.mountAt(v)
	device, began := fmt.Sprintf("loop%d", attachedAs(t, v.ID).Index), time.Now()
	f := workload.StartFill(dir, workload.Buffered)
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
	g := newGuarded(t, volume.GiB, 1, nil)
	room, err := g.poolNamed("default").room()
	if err != nil {
		t.Fatal(err)
	}
	v := g.create(filesystemSpec("v", volume.Ext4, room))
	dir := g.mountAt(v)
	f := workload.StartFill(dir, workload.Buffered)
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
	g := newGuarded(t, volume.GiB, 1, nil)
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
	f := workload.StartFill(dir, workload.Direct)
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
	g := newGuarded(t, 1280*volume.MiB, 10, nil)
	for _, fsType := range []volume.FSType{volume.Ext4, volume.XFS} {
		idle := g.create(filesystemSpec("idle", fsType, volume.GiB))
		dir := g.mountAt(idle)
		if err := workload.Write(filepath.Join(dir, "data"), 1, 300*volume.MiB, true); err != nil {
			t.Fatal(err)
		}
		v := g.create(filesystemSpec("v-"+string(fsType), fsType, 6*volume.GiB))
		busy := g.mountAt(v)
		f := workload.StartFill(busy, workload.Buffered)
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
	g := newGuarded(t, 1280*volume.MiB, 10, nil)
	spare := g.spare("spare", 300*volume.MiB)
	for _, fsType := range []volume.FSType{volume.Ext4, volume.XFS} {
		v := g.create(filesystemSpec("v-"+string(fsType), fsType, 6*volume.GiB))
		dir := g.mountAt(v)
		f := workload.StartFill(dir, workload.Buffered)
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

func (g *guarded) mustStandStill(f *workload.Filler) {
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
	g := newGuarded(t, 1280*volume.MiB, 10, nil)
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
	case <-ended:
		t.Logf("the writer ended %s after it was killed", time.Since(start))
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
	g := newGuarded(t, 1280*volume.MiB, 10, nil)
	v := g.create(filesystemSpec("v", volume.XFS, 6*volume.GiB))
	dir := g.mountAt(v)
	f := workload.StartFill(dir, workload.Mapped)
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
func (g *guarded) thawForGood(f *workload.Filler) {
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
