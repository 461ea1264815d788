package local

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/filesystem"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/pkg/workload"
	"github.com/holdfast-csi/holdfast/test/roottest"
)

// usual has each filesystem and each manner of writing at least once.
var usual = map[string]bool{
	"btrfs, ext4, buffered": true, "btrfs, xfs, direct": true, "btrfs, ext4, small": true,
	"xfs, ext4, mmap": true, "xfs, xfs, buffered": true,
}

// TestAWriterInAFullPoolWaitsAndLosesNothing drives an overcommitted pool full,
// makes room, drives it full again, and checks every byte.
func TestAWriterInAFullPoolWaitsAndLosesNothing(t *testing.T) {
	onEach(t, func(t *testing.T, pool string) {
		for _, fsType := range []volume.FSType{volume.Ext4, volume.XFS} {
			for _, manner := range workload.Manners() {
				t.Run(fmt.Sprintf("%s, %s", fsType, manner), func(t *testing.T) {
					if !roottest.Every() && !usual[fmt.Sprintf("%s, %s, %s", pool, fsType, manner)] {
						t.Skip("one of the combinations that take long; HOLDFAST_EVERY=1 runs them all")
					}
					fillAndGoOn(t, pool, fsType, manner)
				})
			}
		}
	})
}

func fillAndGoOn(t *testing.T, pool string, fsType volume.FSType, manner workload.Manner) {
	g := newGuarded(t, pool, 1536*volume.MiB, 10, nil)
	first, second := g.spare("first", 200*volume.MiB), g.spare("second", 200*volume.MiB)
	v := g.create(filesystemSpec("v", fsType, 6*volume.GiB))
	dir := g.mountAt(v)
	device, began := fmt.Sprintf("loop%d", attachedAs(t, v.ID).Index), time.Now()
	f := startFill(t, dir, manner)
	time.Sleep(300 * time.Millisecond)
	if err := g.snapshot("s", v.ID); err != nil { // what it shares is copied on write
		t.Error(err)
	}
	g.waitFrozen(f)
	g.mustWait(f)
	g.mustRefusePromises(v.ID)
	before, _ := f.Files()
	start, thawed := time.Now(), len(g.heard.about(GuardThawed))
	g.remove(first)
	// A breath would let it go on for a moment, and thaw nothing.
	within(t, soon, "the writer goes on", func() bool {
		n, _ := f.Files()
		return n > before && len(g.heard.about(GuardThawed)) > thawed
	})
	t.Logf("the writer went on %s after the call to delete a volume", time.Since(start))
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
