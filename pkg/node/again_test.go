package node

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/backend"
	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// TestWhatIsPublishedIsSeenWithoutTheTableOfMounts asks what publish asks first.
func TestWhatIsPublishedIsSeenWithoutTheTableOfMounts(t *testing.T) {
	b := newBench(t)
	v := b.images.create(t, "v", ext4, sizeOf(ext4))
	other := b.images.create(t, "other", ext4, sizeOf(ext4))
	b.mustStage(t, v, rwo)
	b.mustStage(t, other, rwo)
	b.mustPublish(t, b.publishRequest(v, "rw", rwo))
	b.mustPublish(t, readOnly(b.publishRequest(v, "ro", rwo)))
	b.mustPublish(t, b.publishRequest(other, "other", rwo))
	dev := b.device(t, v)
	defer dev.Close()
	ask := func(target string, readOnly bool) bool {
		return b.showsAlready(publication{id: v.ID, target: b.target(target), staging: b.staging(v), readOnly: readOnly}, dev)
	}
	for _, c := range []struct {
		what, target string
		readOnly     bool
		want         bool
	}{
		{"as it was published", "rw", false, true},
		{"as it was published, read-only", "ro", true, true},
		{"read-only where it can be written to", "rw", true, false},
		{"for writing where it is read-only", "ro", false, false},
		{"a target of another volume", "other", false, false},
		{"nothing there", "none", false, false},
	} {
		if got := ask(c.target, c.readOnly); got != c.want {
			t.Errorf("%s: %v", c.what, got)
		}
	}

	// Something of somebody else on top of the target.
	b.cover(t, b.target("rw"))
	if ask("rw", false) {
		t.Error("a target that something else is mounted over passes for published")
	}
	_, err := b.NodePublishVolume(t.Context(), b.publishRequest(v, "rw", rwo))
	wantErr(t, err, volume.ErrExists)
	if err := unix.Unmount(b.target("rw"), unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}

	// A part of the volume in place of the whole.
	part, whole := b.target("part"), b.target("rw")
	for _, dir := range []string{whole + "/dir", part} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mount(whole+"/dir", part, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	if ask("part", false) {
		t.Error("a part of the volume passes for all of it")
	}
	if b.showsAlready(publication{id: v.ID, target: part, staging: whole + "/dir"}, dev) {
		t.Error("a part of the volume passes for where it is staged")
	}
	if err := unix.Unmount(part, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}

	// A filesystem that went read-only, as after an error of its disk: every view of it
	// is so then, and was published as it was.
	remount := func(flags uintptr) {
		t.Helper()
		if err := unix.Mount("", b.staging(v), "", unix.MS_REMOUNT|flags, ""); err != nil {
			t.Fatal(err)
		}
	}
	remount(unix.MS_RDONLY)
	if ask("rw", true) || ask("ro", false) {
		t.Error("what a target was published as is told from a filesystem that is read-only as a whole")
	}
	_, err = b.NodePublishVolume(t.Context(), readOnly(b.publishRequest(v, "rw", rwo)))
	wantErr(t, err, volume.ErrExists)
	b.mustPublish(t, b.publishRequest(v, "rw", rwo))
	remount(0)

	// Staging gone: the table of mounts knows what the target shows.
	if err := unix.Unmount(b.staging(v), 0); err != nil {
		t.Fatal(err)
	}
	if ask("rw", false) {
		t.Error("what is published is told from a staging path that is none")
	}
	first := at(t, whole)
	b.mustPublish(t, b.publishRequest(v, "rw", rwo))
	if again := at(t, whole); again.ID != first.ID {
		t.Errorf("mount %d became %d", first.ID, again.ID)
	}

	// Unpublished.
	for _, target := range []string{"ro", "rw"} {
		if err := b.unpublish(t.Context(), v, target); err != nil {
			t.Fatal(err)
		}
	}
	if ask("rw", false) {
		t.Error("a volume passes for published after it was unpublished")
	}
}

// cover mounts something on top of a path.
func (b *bench) cover(t *testing.T, path string) {
	t.Helper()
	tree, err := mount.New(t.Context(), mount.Config{FSType: "tmpfs", Source: "somebody-else"})
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	target, err := b.root.OpenTarget(path)
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	if err := tree.Attach(target); err != nil {
		t.Fatal(err)
	}
}

// device is that of a staged volume. The caller closes it.
func (b *bench) device(t *testing.T, v volume.Volume) *backend.Device {
	t.Helper()
	dev, ok, err := b.images.Lookup(t.Context(), v.ID)
	if err != nil || !ok {
		t.Fatalf("no device of %s: %v", v.Name, err)
	}
	return dev
}
