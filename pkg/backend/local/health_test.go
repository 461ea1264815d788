package local

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/backend"
	"github.com/holdfast-csi/holdfast/pkg/command"
	"github.com/holdfast-csi/holdfast/pkg/filesystem"
	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// found is what a look, and a question, say is wrong with a volume: its reasons with
// their severities. They must say the same.
func (b *bench) found(id volume.ID) []string {
	b.t.Helper()
	b.look(b.t.Context())
	b.tellHealth()
	reasons := func(list []volume.Condition) []string {
		var out []string
		for _, c := range list {
			if c.Message == "" || !slices.Contains(VolumeConditions(), Reason(c.Reason)) {
				b.t.Errorf("not a condition of a volume, or without a message: %+v", c)
			}
			out = append(out, fmt.Sprintf("%s %s", c.Reason, c.Severity))
		}
		return out
	}
	asked, err := b.Health(b.t.Context(), id)
	if err != nil {
		b.t.Fatal(err)
	}
	all, err := b.Unhealthy(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	var listed []string
	for _, h := range all {
		if h.ID == id {
			listed = reasons(h.Conditions)
		}
	}
	if diff := cmp.Diff(reasons(asked), listed); diff != "" {
		b.t.Errorf("asked, it is another than listed (-asked +listed):\n%s", diff)
	}
	return listed
}

// wrong is what a look says is wrong with a pool.
func (b *bench) wrong(pool string) []string {
	b.t.Helper()
	b.look(b.t.Context())
	b.tellHealth()
	all, err := b.StorageHealth(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	var out []string
	for _, p := range all {
		for _, c := range p.Conditions {
			if p.Pool.Name == pool {
				out = append(out, fmt.Sprintf("%s %s", c.Reason, c.Severity))
			}
			if c.Message == "" || !slices.Contains(PoolConditions(), Reason(c.Reason)) {
				b.t.Errorf("not a condition of a pool, or without a message: %+v", c)
			}
		}
	}
	return out
}

func (b *bench) expect(what string, got []string, want ...string) {
	b.t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		b.t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// listen collects the notices from now on.
func (b *bench) listen() *heard {
	h := &heard{}
	b.Backend.cfg.Notice = h.notice
	return h
}

// mountedAt makes a volume with a filesystem that is mounted where everybody sees
// it, until the end of the test, and its mount point.
func (b *bench) mountedAt(name string, fsType volume.FSType) (id volume.ID, path string) {
	b.t.Helper()
	must := func(err error) {
		b.t.Helper()
		if err != nil {
			b.t.Fatal(err)
		}
	}
	size := 64 * volume.MiB
	if fsType == volume.XFS {
		size = 300 * volume.MiB
	}
	v := b.create(volume.Spec{Name: name, Size: size, Format: volume.Format{Mode: volume.ModeFilesystem, FSType: fsType, SectorSize: 4096}})
	dev, err := b.Attach(b.t.Context(), v.ID)
	must(err)
	defer dev.Close()
	tree, err := mount.New(b.t.Context(), mount.Config{FSType: string(fsType), Source: dev.Path})
	must(err)
	defer tree.Close()
	root, err := mount.OpenRoot(b.dir)
	must(err)
	defer root.Close()
	path = filepath.Join(b.dir, "mnt-"+name)
	target, err := root.CreateTarget(path, mount.Dir)
	must(err)
	defer target.Close()
	must(tree.Attach(target))
	return v.ID, path
}

// goDown shuts a filesystem down as a dead disk does (XFS_IOC_GOINGDOWN, which ext4
// has too).
func goDown(t *testing.T, dir string) {
	t.Helper()
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	const goingDown, noLog = 0x8004587d, 2
	how := uint32(noLog)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, root.Fd(), goingDown, uintptr(unsafe.Pointer(&how))); errno != 0 {
		t.Fatal(errno)
	}
}

func TestAFilesystemThatFailedIsFoundAndToldOnce(t *testing.T) {
	b := newBench(t, 2*volume.GiB, nil, "default")
	h := b.listen()
	for _, c := range []struct {
		name   string
		fsType volume.FSType
		fail   func(id volume.ID, root string)
		reason Reason
	}{
		{"ext4-read-only", volume.Ext4, func(id volume.ID, _ string) {
			trigger := fmt.Sprintf("/sys/fs/ext4/loop%d/trigger_fs_error", attachedAs(t, id).Index)
			if err := os.WriteFile(trigger, []byte("1"), 0); err != nil {
				t.Fatal(err)
			}
		}, FilesystemReadOnly},
		{"ext4-down", volume.Ext4, func(_ volume.ID, root string) { goDown(t, root) }, FilesystemShutDown},
		{"xfs-down", volume.XFS, func(_ volume.ID, root string) { goDown(t, root) }, FilesystemShutDown},
	} {
		id, root := b.mountedAt(c.name, c.fsType)
		b.expect(c.name+" before", b.found(id))
		c.fail(id, root)
		want := string(c.reason) + " inaccessible"
		b.expect(c.name, b.found(id), want)
		b.expect(c.name+" again", b.found(id), want)
		told := 0
		for _, text := range h.about(c.reason) {
			if strings.Contains(text, string(id)) {
				told++
			}
		}
		if told != 1 {
			t.Errorf("%s: told %d times: %q", c.name, told, h.about(c.reason))
		}
	}
}

func TestExt4ThatMetErrorsAndWentOnIsDegraded(t *testing.T) {
	b := newBench(t, 2*volume.GiB, nil, "default")
	id, root := b.mountedAt("a", volume.Ext4)
	if err := unix.Mount("", root, "", unix.MS_REMOUNT, "errors=continue"); err != nil {
		t.Fatal(err)
	}
	trigger := fmt.Sprintf("/sys/fs/ext4/loop%d/trigger_fs_error", attachedAs(t, id).Index)
	if err := os.WriteFile(trigger, []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	// ext4 counts them a moment later (update_super_work).
	within(t, 10*time.Second, "the error is found", func() bool { return len(b.found(id)) > 0 })
	b.expect("errors=continue", b.found(id), "FilesystemErrors degraded")
}

func TestALostImageIsFoundWhetherAttachedOrNot(t *testing.T) {
	onEach(t, loseImages)
}

func loseImages(t *testing.T, fsType string) {
	b := newBenchOn(t, fsType, 2*volume.GiB, nil, "default")
	p := b.poolNamed("default")
	h := b.listen()
	image := func(v volume.Volume) string {
		return filepath.Join(p.dir.Name(), objectDir(v.ID), dataDir, imageFile)
	}
	short, gone, held := b.create(blockSpec("short")), b.create(blockSpec("gone")), b.create(blockSpec("held"))
	if _, err := b.Attach(t.Context(), held.ID); err != nil {
		t.Fatal(err)
	}
	for _, v := range []volume.Volume{short, gone, held} {
		b.expect("before", b.found(v.ID))
	}
	if err := os.Truncate(image(short), int64(short.Size/2)); err != nil {
		t.Fatal(err)
	}
	for _, v := range []volume.Volume{gone, held} {
		if err := os.Remove(image(v)); err != nil {
			t.Fatal(err)
		}
	}
	b.expect("a short image", b.found(short.ID), "ImageTooShort lost")
	b.expect("no image", b.found(gone.ID), "ImageMissing lost")
	b.expect("no image, attached", b.found(held.ID), "ImageMissing lost")
	if err := os.Truncate(image(short), int64(short.Size)); err != nil {
		t.Fatal(err)
	}
	b.expect("a short image, restored", b.found(short.ID))
	if healed := h.about(Healed); len(healed) != 1 || !strings.Contains(healed[0], string(short.ID)) || !strings.Contains(healed[0], string(ImageTooShort)) {
		t.Errorf("told of what is over: %q", healed)
	}
	if err := b.Detach(t.Context(), held.ID); err != nil {
		t.Fatal(err)
	}
}

func TestADamagedRecordIsLostData(t *testing.T) {
	b := newBench(t, volume.GiB, nil, "default")
	v := b.create(blockSpec("a"))
	record := objectDir(v.ID) + "/" + recordFile(volume.KindVolume)
	if err := b.poolNamed("default").root.WriteFile(record, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.reopen()
	b.expect("a damaged record", b.found(v.ID), "ObjectDamaged lost")
	if st := b.Stats()[0]; st.Damaged != 1 {
		t.Errorf("%d are damaged", st.Damaged)
	}
}

func TestWhatIsWrongWithADeviceIsFound(t *testing.T) {
	onEach(t, misuseDevice)
}

func misuseDevice(t *testing.T, fsType string) {
	b := newBenchOn(t, fsType, 2*volume.GiB, nil, "default")
	v := b.create(blockSpec("a"))
	dev, err := b.Attach(t.Context(), v.ID)
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	b.expect("attached", b.found(v.ID))
	direct := func(state string) {
		t.Helper()
		if _, err := command.New().Run(t.Context(), "losetup", "--direct-io="+state, dev.Path); err != nil {
			t.Fatal(err)
		}
	}
	direct("off")
	b.expect("direct I/O off", b.found(v.ID), "DirectIOOff degraded")
	if st := b.Stats()[0].Volumes[0]; st.Attached != 1 || st.DirectIO {
		t.Errorf("%+v", st)
	}
	direct("on")
	b.expect("direct I/O on", b.found(v.ID))

	img, err := b.poolNamed("default").openImage(mustLookup(t, b, v.ID), unix.O_RDWR)
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	second, err := loop.Attach(t.Context(), loop.Config{Backing: img, Tag: "somebody else", BlockSize: 4096, DirectIO: true})
	if err != nil {
		t.Fatal(err)
	}
	b.expect("two loop devices", b.found(v.ID), "AttachedTwice inaccessible")
	if err := second.Detach(); err != nil {
		t.Fatal(err)
	}
	b.expect("one again", b.found(v.ID))

	if _, err := b.ExpandVolume(t.Context(), v.ID, 2*v.Size, 0); err != nil {
		t.Fatal(err)
	}
	b.expect("just grown", b.found(v.ID))
	b.health.mu.Lock()
	b.health.small[v.ID] = b.health.small[v.ID].Add(-2 * growPatience)
	b.health.mu.Unlock()
	b.expect("grown long ago", b.found(v.ID), "DeviceTooSmall degraded")
	if err := b.Refresh(t.Context(), v.ID); err != nil {
		t.Fatal(err)
	}
	b.expect("refreshed", b.found(v.ID))
	if err := b.Detach(t.Context(), v.ID); err != nil {
		t.Fatal(err)
	}
}

func mustLookup(t *testing.T, b *bench, id volume.ID) object {
	t.Helper()
	o, ok := b.poolNamed("default").lookup(id)
	if !ok {
		t.Fatalf("no %s", id)
	}
	return o
}

func TestAVolumeThatIsBeingDeletedIsNotLost(t *testing.T) {
	var b *bench
	b = newBench(t, volume.GiB, func(step string) error {
		if step == "delete-volume/renamed" {
			b.look(t.Context())
			b.tellHealth()
		}
		return nil
	}, "default")
	h := b.listen()
	v := b.create(blockSpec("a"))
	b.look(t.Context())
	if err := b.DeleteVolume(t.Context(), v.ID); err != nil {
		t.Fatal(err)
	}
	b.tellHealth()
	if len(h.said) > 0 {
		t.Errorf("%q", h.said)
	}
	if n := len(b.Stats()[0].Volumes); n != 0 {
		t.Errorf("%d volumes are left", n)
	}
	if _, err := b.Health(t.Context(), v.ID); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("got %v", err)
	}
}

func TestManyVolumesWithTheSameTroubleAreToldTogether(t *testing.T) {
	b := newBench(t, volume.GiB, nil, "default")
	h := b.listen()
	for i := range 2 * maxAlike {
		v := b.create(blockSpec(fmt.Sprint("v", i)))
		if err := os.Remove(filepath.Join(b.poolNamed("default").dir.Name(), objectDir(v.ID), dataDir, imageFile)); err != nil {
			t.Fatal(err)
		}
	}
	b.look(t.Context())
	b.tellHealth()
	if told := h.about(ImageMissing); len(told) != 1 || !strings.Contains(told[0], "6 volumes") {
		t.Errorf("%q", told)
	}
}

func TestStatsCountWhatIsThere(t *testing.T) {
	b := newBench(t, 2*volume.GiB, nil, "default")
	v := b.create(blockSpec("a"))
	if err := b.snapshot("s1", v.ID); err != nil {
		t.Fatal(err)
	}
	if err := b.snapshot("s2", v.ID); err != nil {
		t.Fatal(err)
	}
	dev, err := b.Attach(t.Context(), v.ID)
	if err != nil {
		t.Fatal(err)
	}
	b.look(t.Context())
	st := b.Stats()[0]
	if !st.Available || st.Filesystem != "btrfs" || !st.Image || !st.ImageDirectIO || st.Snapshots != 2 || st.Overcommit != 1 || st.Looked.IsZero() {
		t.Errorf("%+v", st)
	}
	if st.Size < volume.GiB || st.Free <= 0 || st.Free > st.Size || st.Promised != v.Size || st.Room <= 0 || st.Room > st.Free {
		t.Errorf("size %s, free %s, promised %s, room %s", st.Size, st.Free, st.Promised, st.Room)
	}
	want := backend.VolumeStats{ID: v.ID, Size: v.Size, Charge: v.Size, Snapshots: 2, Attached: 1, DirectIO: true}
	if diff := cmp.Diff([]backend.VolumeStats{want}, st.Volumes); diff != "" {
		t.Error(diff)
	}
	if err := dev.Close(); err != nil {
		t.Fatal(err)
	}
	if err := b.Detach(t.Context(), v.ID); err != nil {
		t.Fatal(err)
	}
}

func TestNoMoreIsAvailableThanAnOvercommittedPoolHas(t *testing.T) {
	b := newBench(t, volume.GiB, nil, "default")
	v := b.create(blockSpec("a"))
	b.look(t.Context())
	if left, ok := b.Headroom(v.ID); ok {
		t.Errorf("every volume was promised its size, and %s are left", left)
	}
	b.cfg.Overcommit = 2
	b.reopen()
	if left, ok := b.Headroom(v.ID); ok {
		t.Errorf("nobody has looked yet, and %s are left", left)
	}
	b.look(t.Context())
	left, ok := b.Headroom(v.ID)
	if st := b.Stats()[0]; !ok || left != st.Free || left <= 0 || st.Overcommit != 2 {
		t.Errorf("left %s, %t; free %s", left, ok, st.Free)
	}
}

func TestASuspectedFilesystemThatIsFrozenIsNotTriedTwice(t *testing.T) {
	b := newBench(t, 2*volume.GiB, nil, "default")
	id, path := b.mountedAt("a", volume.Ext4)
	l := attachedAs(t, id)
	w, err := b.health.around.now()
	if err != nil {
		t.Fatal(err)
	}
	mounts := w.mounts[unix.Mkdev(l.Major, l.Minor)]
	if b.health.refuses(l, mounts) {
		t.Error("it takes changes")
	}
	root, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := filesystem.Freeze(root); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	first, second := b.health.refuses(l, mounts), b.health.refuses(l, mounts)
	took := time.Since(start)
	if err := filesystem.Thaw(root); err != nil {
		t.Fatal(err)
	}
	if first || second || took > 2*tryWait {
		t.Errorf("a frozen one refuses: %t, %t, after %s", first, second, took)
	}
	if err := os.WriteFile(fmt.Sprintf("/sys/fs/ext4/loop%d/trigger_fs_error", l.Index), []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	within(t, 10*time.Second, "one that is read-only refuses", func() bool { return b.health.refuses(l, mounts) })
}

// BenchmarkLook is a look at many volumes, all of them block volumes and a fifth of
// them attached.
func BenchmarkLook(b *testing.B) {
	bench := newBench(b, 2*volume.GiB, nil, "default")
	const volumes = 1000
	for i := range volumes {
		spec := blockSpec(fmt.Sprint("v", i))
		spec.Size = volume.MiB
		v := bench.create(spec)
		if i%5 > 0 {
			continue
		}
		dev, err := bench.Attach(b.Context(), v.ID)
		if err != nil {
			b.Fatal(err)
		}
		dev.Close()
	}
	b.ResetTimer()
	for b.Loop() {
		bench.look(b.Context())
		bench.tellHealth()
		if n := len(bench.Stats()[0].Volumes); n != volumes {
			b.Fatalf("%d volumes", n)
		}
	}
}
