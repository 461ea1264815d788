package node

import (
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

	// A part of the volume in place of the whole, and staging gone.
	if err := b.unpublish(t.Context(), v, "ro"); err != nil {
		t.Fatal(err)
	}
	if err := b.unpublish(t.Context(), v, "rw"); err != nil {
		t.Fatal(err)
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
