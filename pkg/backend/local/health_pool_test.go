package local

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/command"
	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/pkg/teardown"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/test/roottest"
	"github.com/holdfast-csi/holdfast/test/scratch"
)

func TestAPoolThatIsWellHasNoConditions(t *testing.T) {
	b := newBench(t, volume.GiB, nil, "default", "other")
	b.expect("default", b.wrong("default"))
	b.expect("other", b.wrong("other"))
}

func TestAPoolThatIsAwayIsInaccessibleWithItsVolumes(t *testing.T) {
	b := newBench(t, volume.GiB, nil, "default", "other")
	h := b.listen()
	v := b.create(blockSpec("a"))
	b.look(t.Context())
	restore, err := b.takeAway("default")
	if err != nil {
		t.Fatal(err)
	}
	b.expect("default", b.wrong("default"), "PoolMissing inaccessible")
	b.expect("other", b.wrong("other"))
	b.expect("a volume", b.found(v.ID), "PoolMissing inaccessible")
	restore()
	b.expect("default, back", b.wrong("default"))
	b.expect("a volume, back", b.found(v.ID))
	if n := len(h.about(PoolMissing)); n != 1 {
		t.Errorf("told %d times: %q", n, h.said)
	}
}

func TestTheImageOfAPoolIsWatched(t *testing.T) {
	b := newBench(t, volume.GiB, nil, "default")
	image := filepath.Join(b.cfg.Pools[0].Dir, ImageFile)
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	on, err := b.loopsOn(f)
	if err != nil || len(on) != 1 {
		t.Fatalf("%v, %v", on, err)
	}
	device := on[0]
	direct := func(state string) {
		t.Helper()
		d, err := device.Open()
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		if _, err := command.New().Run(t.Context(), "losetup", "--direct-io="+state, d.Path()); err != nil {
			t.Fatal(err)
		}
	}
	direct("off")
	b.expect("direct I/O off", b.wrong("default"), "DirectIOOff degraded")
	direct("on")
	b.expect("direct I/O on", b.wrong("default"))

	// Its last MiB: btrfs has nothing there.
	const hole = 1 << 20
	if err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(volume.GiB)-hole, hole); err != nil {
		t.Fatal(err)
	}
	b.expect("punched", b.wrong("default"), "ImagePunched degraded")
	if err := b.keepAllocated(f); err != nil {
		t.Fatal(err)
	}
	b.expect("allocated again", b.wrong("default"))

	if err := os.Rename(image, image+".away"); err != nil {
		t.Fatal(err)
	}
	b.expect("no image", b.wrong("default"), "PoolImageMissing degraded")
	if p := b.Pools()[0]; !p.Available {
		t.Errorf("it still works: %s", p.Reason)
	}
	if err := os.Rename(image+".away", image); err != nil {
		t.Fatal(err)
	}
	b.expect("the image is back", b.wrong("default"))
}

func TestAPoolThatFillsUpSaysSo(t *testing.T) {
	b := newBench(t, volume.GiB, nil, "default")
	h := b.listen()
	v := b.create(volume.Spec{Name: "a", Size: 256 * volume.MiB, Format: volume.Format{Mode: volume.ModeBlock}})
	b.expect("before", b.wrong("default"))
	p := b.poolNamed("default")
	account, err := p.store.space()
	if err != nil {
		t.Fatal(err)
	}
	filler := filepath.Join(p.dir.Name(), "filler") // of nobody's
	f, err := os.Create(filler)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Fallocate(int(f.Fd()), 0, 0, int64(account.Free-account.Total/20)); err != nil {
		t.Fatal(err)
	}
	b.expect("nearly full", b.wrong("default"), "PoolNearlyFull degraded", "PromiseAtRisk degraded")
	if _, err := b.Volume(t.Context(), v.ID); err != nil {
		t.Errorf("it still works: %v", err)
	}
	if err := errors.Join(os.Remove(filler), f.Close()); err != nil {
		t.Fatal(err)
	}
	// btrfs gives it back when its cleaner comes by, twice a minute.
	within(t, 150*time.Second, "the space is back", func() bool { return len(b.wrong("default")) == 0 })
	if n := len(h.about(Healed)); n != 2 {
		t.Errorf("told %d times that it is over: %q", n, h.said)
	}
}

// ground makes a filesystem of its own for a pool image to lie on, so that it can
// fail as a disk does.
func ground(t *testing.T, size volume.Bytes) string {
	t.Helper()
	roottest.Require(t)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	t.Cleanup(func() {
		// It is dead, so nothing below it can be looked for by name.
		for _, path := range []string{dir + "/mnt/pool/default/pool", dir + "/mnt"} {
			if err := unix.Unmount(path, 0); err != nil && !errors.Is(err, unix.EINVAL) {
				t.Errorf("unmount %s: %v", path, err)
			}
		}
		if err := teardown.Below(context.Background(), dir); err != nil {
			t.Error(err)
		}
	})
	img, err := os.Create(filepath.Join(dir, "ground.img"))
	must(err)
	defer img.Close()
	must(img.Truncate(int64(size)))
	dev, err := loop.Attach(t.Context(), loop.Config{Backing: img, Tag: "ground", BlockSize: 4096})
	must(err)
	defer dev.Close()
	_, err = command.New().Run(t.Context(), "mkfs.xfs", "-q", dev.Path())
	must(err)
	tree, err := mount.New(t.Context(), mount.Config{FSType: "xfs", Source: dev.Path()})
	must(err)
	defer tree.Close()
	root, err := mount.OpenRoot(dir)
	must(err)
	defer root.Close()
	target, err := root.CreateTarget(filepath.Join(dir, "mnt"), mount.Dir)
	must(err)
	defer target.Close()
	must(tree.Attach(target))
	return filepath.Join(dir, "mnt")
}

func TestAPoolWhoseDiskDiedIsUnavailable(t *testing.T) {
	mnt := ground(t, 2*volume.GiB)
	var h heard
	b := &bench{t: t, dir: filepath.Join(mnt, "pool"), cfg: Config{
		Pools: []PoolConfig{{Name: "default", Dir: filepath.Join(mnt, "pool", "default"), Size: volume.GiB}}, StateDir: t.TempDir(),
		Runner: command.New(), Notice: h.notice,
	}}
	if err := os.Mkdir(b.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	b.open()
	defer func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}()
	v := b.create(blockSpec("a"))
	dev, err := b.Attach(t.Context(), v.ID)
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	b.expect("before", b.wrong("default"))

	goDown(t, mnt)
	b.expect("the pool", b.wrong("default"), "PoolFailed inaccessible")
	if got := b.found(v.ID); len(got) == 0 || !strings.HasSuffix(got[0], "inaccessible") {
		t.Errorf("its volume: %q", got)
	}
	if p := b.Pools()[0]; p.Available || p.ID == "" || p.Reason == "" {
		t.Errorf("%+v", p)
	}
	_, create := b.CreateVolume(t.Context(), blockSpec("b"))
	_, attach := b.Attach(t.Context(), v.ID)
	for what, err := range map[string]error{"create": create, "attach": attach, "delete": b.DeleteVolume(t.Context(), v.ID)} {
		if !errors.Is(err, volume.ErrUnavailable) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if capacity, err := b.Capacity(t.Context(), "", nil); err != nil || capacity.Available != 0 {
		t.Errorf("%+v, %v", capacity, err)
	}
	if n := len(h.about(PoolFailed)); n != 1 {
		t.Errorf("told %d times: %q", n, h.said)
	}
	if err := dev.Close(); err != nil {
		t.Fatal(err)
	}
	// What is attached can still be let go.
	if err := b.Detach(t.Context(), v.ID); err != nil && !errors.Is(err, unix.EIO) {
		t.Errorf("detach: %v", err)
	}
}

func TestAPoolThatShutsItselfDownIsFoundSoonAndLetsGo(t *testing.T) {
	b := newBenchOn(t, FilesystemXFS, volume.GiB, nil, "default", "other")
	var h heard
	b.cfg.Notice = h.notice
	b.reopen()
	v, other := b.create(blockSpec("a")), blockSpec("b")
	other.Pool = "other"
	dev, err := b.Attach(t.Context(), v.ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := dev.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.watchHealth(ctx)
	}()
	defer func() {
		stop()
		<-done
	}()
	within(t, 10*time.Second, "there was a look", func() bool { return !b.Stats()[0].Looked.IsZero() })
	goDown(t, b.poolNamed("default").dir.Name())
	// Whoever is told of the error first makes it known.
	if _, err := b.CreateVolume(t.Context(), blockSpec("c")); err == nil {
		t.Error("a dead pool has made a volume")
	}
	within(t, 10*time.Second, "it is unavailable", func() bool { return !b.Pools()[0].Available })
	if _, err := b.Volume(t.Context(), v.ID); !errors.Is(err, volume.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	within(t, 10*time.Second, "it is told", func() bool { return len(h.about(PoolFailed)) == 1 })
	// The other pool goes on, and what is attached from the dead one is let go.
	if _, err := b.CreateVolume(t.Context(), other); err != nil {
		t.Errorf("another pool: %v", err)
	}
	for _, what := range []string{"remembered", "by its path alone"} {
		dev, ok, err := b.Lookup(t.Context(), v.ID)
		if !ok || err != nil {
			t.Errorf("its volume, %s: attached %t, %v", what, ok, err)
			continue
		}
		if err := dev.Close(); err != nil {
			t.Error(err)
		}
		b.loops = loop.Index{} // as after a restart of the driver
	}
	if err := b.Detach(t.Context(), v.ID); err != nil {
		t.Errorf("detach: %v", err)
	}
	if _, ok, err := b.Lookup(t.Context(), v.ID); ok || err != nil {
		t.Errorf("its volume, detached: attached %t, %v", ok, err)
	}
}

func TestAPoolThatDoesNotAnswerIsSilentAndHoldsUpNobody(t *testing.T) {
	b := newBench(t, volume.GiB, nil, "default", "other")
	b.look(t.Context())
	if !b.health.begin("default", time.Now().Add(-time.Minute)) { // a look that never ends
		t.Fatal("a look is under way")
	}
	before := b.Stats()[1].Looked
	start := time.Now()
	b.expect("a pool that does not answer", b.wrong("default"), "PoolSilent inaccessible")
	if took := time.Since(start); took > lookWait/2 {
		t.Errorf("the others waited for it, %s", took)
	}
	if !b.Stats()[1].Looked.After(before) {
		t.Error("the other pool was not looked at")
	}
	b.health.end("default", b.examine(b.slots[0]))
	b.expect("it answers again", b.wrong("default"))
}

func TestADataProfileThatBecameUnsafeIsFound(t *testing.T) {
	mnt, state := scratch.Btrfs(t, 2, volume.GiB, "--data", "single", "--metadata", "raid1"), t.TempDir()
	dir := filepath.Join(mnt, "pool")
	if err := initPool(t, state, dir); err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, dir: dir, cfg: Config{
		Pools: []PoolConfig{{Name: "default", Dir: dir}}, StateDir: state, Runner: command.New(),
	}}
	b.open()
	defer func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}()
	b.create(blockSpec("a"))
	b.expect("single", b.wrong("default"))
	if _, err := command.New().Run(t.Context(), "btrfs", "balance", "start", "-dconvert=raid1", mnt); err != nil {
		t.Fatal(err)
	}
	b.expect("raid1", b.wrong("default"), "ProfileUnsafe degraded")
}

func TestDiskErrorsAreThoseOfBtrfs(t *testing.T) {
	b := newBench(t, volume.GiB, nil, "default")
	s := b.poolNamed("default").store.(*btrfsStore)
	files, err := filepath.Glob(s.sysfs("devinfo/*/error_stats"))
	if err != nil || len(files) != 1 {
		t.Fatalf("the kernel shows counters in %q, %v", files, err)
	}
	text, err := os.ReadFile(files[0])
	if err != nil || nonZero(string(text)) != "" || !strings.Contains(string(text), "write_errs 0\n") {
		t.Errorf("a new disk has %q, %v", text, err)
	}
	if got := nonZero(strings.Replace(string(text), "write_errs 0\n", "write_errs 12\n", 1)); got != "write_errs 12" {
		t.Errorf("got %q", got)
	}
}

func TestWritersThatWaitForSpaceAreFound(t *testing.T) {
	b := newBench(t, volume.GiB, nil, "default")
	h := b.listen()
	v, other := b.create(blockSpec("a")), b.create(blockSpec("b"))
	g := b.poolNamed("default").guard
	freeze := func(frozen bool) {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.frozen = frozen
		delete(g.wards, v.ID)
		if frozen {
			g.wards[v.ID] = &ward{}
		}
	}
	freeze(true)
	b.expect("the pool", b.wrong("default"), "GuardFroze degraded")
	b.expect("a volume", b.found(v.ID), "GuardFroze inaccessible")
	b.expect("one that is not mounted", b.found(other.ID))
	freeze(false)
	b.expect("the pool, thawed", b.wrong("default"))
	b.expect("a volume, thawed", b.found(v.ID))
	if len(h.said) > 0 {
		t.Errorf("the guard tells of it: %q", h.said)
	}
}
