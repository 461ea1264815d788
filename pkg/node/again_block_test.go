package node

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// TestAPublishedDeviceIsSeenWithoutTheTableOfMounts asks what publish asks first of a
// raw block volume.
func TestAPublishedDeviceIsSeenWithoutTheTableOfMounts(t *testing.T) {
	b := newBench(t)
	v := b.images.create(t, "v", block, sizeOf(block))
	other := b.images.create(t, "other", block, sizeOf(block))
	for _, each := range []volume.Volume{v, other} {
		b.mustStage(t, each, rwo)
	}
	b.mustPublish(t, b.publishRequest(v, "rw", rwo))
	b.mustPublish(t, readOnly(b.publishRequest(v, "ro", rwo)))
	b.mustPublish(t, b.publishRequest(other, "other-rw", rwo))
	b.mustPublish(t, readOnly(b.publishRequest(other, "other-ro", rwo)))
	write(t, b.target("file"), "nothing is mounted here")
	dev := b.device(t, v)
	defer dev.Close()
	ask := func(target string, readOnly bool) bool {
		return b.showsNodeAlready(publication{id: v.ID, target: b.target(target), readOnly: readOnly}, dev)
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
		{"a target of another volume", "other-rw", false, false},
		{"a read-only target of another volume", "other-ro", true, false},
		{"a file", "file", false, false},
		{"nothing there", "none", false, false},
	} {
		if got := ask(c.target, c.readOnly); got != c.want {
			t.Errorf("%s: %v", c.what, got)
		}
	}

	// The device below a read-only target was detached by force: the target is of no
	// use, and publish must make it anew.
	for _, l := range stackedOf(t, v) {
		forced, err := loop.Open(l.Index)
		if err != nil {
			t.Fatal(err)
		}
		if err := forced.Detach(); err != nil {
			t.Fatal(err)
		}
	}
	wantDevices(t, stackedTag(v.ID), 0)
	if ask("ro", true) {
		t.Error("a target whose device is gone passes for published")
	}
	b.mustPublish(t, readOnly(b.publishRequest(v, "ro", rwo)))
	if !ask("ro", true) {
		t.Error("a target that was made anew does not pass for published")
	}
	b.wantOneMount(t, "rw", "ro")
	for target, each := range map[string]volume.Volume{"rw": v, "ro": v, "other-rw": other, "other-ro": other} {
		if err := b.unpublish(t.Context(), each, target); err != nil {
			t.Fatal(err)
		}
	}
}

// wantOneMount demands that there is one mount on each of these targets.
func (b *bench) wantOneMount(t *testing.T, targets ...string) {
	t.Helper()
	infos, err := mount.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, target := range targets {
		if layers := mount.At(infos, b.target(target)); len(layers) != 1 {
			t.Errorf("%d mounts at %s", len(layers), target)
		}
	}
}

// TestAVolumeThatIsReadOnlyAsAWholeIsSeenWithoutTheTableOfMounts: every view of it looks
// read-only, and what it was published as is in the mount alone.
func TestAVolumeThatIsReadOnlyAsAWholeIsSeenWithoutTheTableOfMounts(t *testing.T) {
	b := newBench(t)
	v := b.images.create(t, "v", ext4, sizeOf(ext4))
	b.mustStage(t, v, rwo)
	b.mustPublish(t, b.publishRequest(v, "rw", rwo))
	b.mustPublish(t, readOnly(b.publishRequest(v, "ro", rwo)))
	// As after an error.
	if err := unix.Mount("", b.staging(v), "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	staged, err := b.root.OpenTarget(b.staging(v))
	if err != nil {
		t.Fatal(err)
	}
	_, known := mount.AttrOf(staged.File())
	staged.Close()
	if !known {
		t.Skip("this kernel tells nothing of a mount but in the table of mounts: it is older than Linux 6.8")
	}
	dev := b.device(t, v)
	defer dev.Close()
	for _, c := range []struct {
		target   string
		readOnly bool
		want     bool
	}{{"rw", false, true}, {"ro", true, true}, {"rw", true, false}, {"ro", false, false}} {
		p := publication{id: v.ID, target: b.target(c.target), staging: b.staging(v), readOnly: c.readOnly}
		if got := b.showsAlready(p, dev); got != c.want {
			t.Errorf("%s, asked for read-only %v: %v", c.target, c.readOnly, got)
		}
		req := b.publishRequest(v, c.target, rwo)
		req.Readonly = c.readOnly
		_, err := b.NodePublishVolume(t.Context(), req)
		if c.want != (err == nil) {
			t.Errorf("%s, asked for read-only %v: publish says %v", c.target, c.readOnly, err)
		}
	}
	b.wantOneMount(t, "rw", "ro")
}
