package node

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func filesystems() map[string]volume.Format {
	return map[string]volume.Format{"ext4": ext4, "xfs": xfs}
}

func TestStageMountsTheFilesystemOnce(t *testing.T) {
	for name, f := range filesystems() {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			v := b.images.create(t, "v", f, sizeOf(f))
			b.mustStage(t, v, rwo, "noatime")
			first := at(t, b.staging(v))
			b.mustStage(t, v, rwo, "noatime")
			if again := at(t, b.staging(v)); again.ID != first.ID {
				t.Errorf("mount %d became %d", first.ID, again.ID)
			}
			if got := strings.Join(first.Options, ","); !strings.Contains(got, "nosuid") || !strings.Contains(got, "nodev") || !strings.Contains(got, "noatime") {
				t.Errorf("mounted with %s, want nosuid, nodev and noatime", got)
			}
			if first.FSType != string(f.FSType) {
				t.Errorf("mounted as %s", first.FSType)
			}
			write(t, b.staging(v)+"/file", "content")
			b.mustEnd(t, v)
			b.mustStage(t, v, rwo)
			wantContent(t, b.staging(v)+"/file", "content")
			b.mustEnd(t, v)
		})
	}
}

func TestStageOfTheSameInAnotherWayIsRefused(t *testing.T) {
	b := newBench(t)
	v := b.images.create(t, "v", ext4, sizeOf(ext4))
	b.mustStage(t, v, rwo)
	for name, req := range map[string]*csi.NodeStageVolumeRequest{
		"read-only mode": b.stageRequest(v, rox),
		"read-only flag": b.stageRequest(v, rwo, "ro"),
		"noexec":         b.stageRequest(v, rwo, "noexec"),
		"noatime":        b.stageRequest(v, rwo, "noatime"),
	} {
		_, err := b.NodeStageVolume(t.Context(), req)
		t.Log(name)
		wantErr(t, err, volume.ErrExists)
	}
	b.mustEnd(t, v)
}

func TestStageReadOnlyStopsEveryWrite(t *testing.T) {
	for name, f := range filesystems() {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			v := b.images.create(t, "v", f, sizeOf(f))
			b.mustStage(t, v, rwo)
			write(t, b.staging(v)+"/file", "content")
			b.mustEnd(t, v)
			b.mustStage(t, v, rox)
			b.mustStage(t, v, rox)
			wantContent(t, b.staging(v)+"/file", "content")
			if err := os.WriteFile(b.staging(v)+"/file", nil, 0); !errors.Is(err, unix.EROFS) {
				t.Errorf("write to a read-only volume: %v, want EROFS", err)
			}
			_, err := b.NodePublishVolume(t.Context(), b.publishRequest(v, "p", rwo))
			wantErr(t, err, volume.ErrPrecondition)
			b.mustPublish(t, b.publishRequest(v, "p", rox))
			wantContent(t, b.target("p")+"/file", "content")
			b.mustEnd(t, v, "p")
		})
	}
}

func TestStageGrowsAFilesystemThatIsSmallerThanItsDevice(t *testing.T) {
	for name, f := range filesystems() {
		for _, mode := range []csi.VolumeCapability_AccessMode_Mode{rwo, rox} {
			t.Run(name+" "+mode.String(), func(t *testing.T) {
				b := newBench(t)
				v := b.images.create(t, "v", f, sizeOf(f))
				v = b.images.expand(t, v, 3*v.Size)
				b.mustStage(t, v, mode)
				if got := filesystemSize(t, b.staging(v), f.FSType); got != v.Size {
					t.Errorf("filesystem of %s on a volume of %s", got, v.Size)
				}
				if got := at(t, b.staging(v)).ReadOnly(); got != (mode == rox) {
					t.Errorf("read-only is %t", got)
				}
				b.mustEnd(t, v)
			})
		}
	}
}

func TestACloneOfAnXfsMountsBesideItsSource(t *testing.T) {
	b := newBench(t)
	v := b.images.create(t, "v", xfs, sizeOf(xfs))
	clone := b.images.create(t, "clone", block, sizeOf(xfs))
	content, err := os.ReadFile(b.images.image(v.ID))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(b.images.image(clone.ID), content, 0o600); err != nil {
		t.Fatal(err)
	}
	clone.Format = v.Format
	b.images.save(t, clone)
	b.mustStage(t, v, rwo)
	b.mustStage(t, clone, rwo)
	write(t, b.staging(v)+"/file", "source")
	if _, err := os.Stat(b.staging(clone) + "/file"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the clone shows the source: %v", err)
	}
	if err := b.unstage(t.Context(), clone); err != nil {
		t.Error(err)
	}
	b.mustEnd(t, v)
}

func TestStageRefusesADeviceThatLostItsFilesystemAndChangesNothing(t *testing.T) {
	ruin := map[string]func([]byte){
		"zeroed start":     func(d []byte) { clear(d[:1<<20]) },
		"zeroed whole":     func(d []byte) { clear(d) },
		"torn superblock":  func(d []byte) { d[1024+0x20]++; d[0x20]++ },
		"something else":   func(d []byte) { copy(d, bytes.Repeat([]byte("not a filesystem"), 1<<16)) },
		"another's format": nil,
	}
	for name, f := range filesystems() {
		for how, do := range ruin {
			t.Run(name+" "+how, func(t *testing.T) {
				b := newBench(t)
				v := b.images.create(t, "v", f, sizeOf(xfs))
				path := b.images.image(v.ID)
				if do == nil {
					other := map[string]volume.Format{"ext4": xfs, "xfs": ext4}[name]
					path = b.images.image(b.images.create(t, "other", other, sizeOf(xfs)).ID)
					if err := os.Rename(path, b.images.image(v.ID)); err != nil {
						t.Fatal(err)
					}
					path = b.images.image(v.ID)
				}
				file, err := os.OpenFile(path, os.O_RDWR, 0)
				if err != nil {
					t.Fatal(err)
				}
				defer file.Close()
				start := make([]byte, 2<<20)
				if _, err := file.ReadAt(start, 0); err != nil {
					t.Fatal(err)
				}
				if do != nil {
					do(start)
				}
				if _, err := file.WriteAt(start, 0); err != nil {
					t.Fatal(err)
				}
				for range 2 {
					_, err = b.NodeStageVolume(t.Context(), b.stageRequest(v, rwo))
					wantErr(t, err, volume.ErrDataLoss)
				}
				b.wantNothing(t, v)
				after := make([]byte, len(start))
				if _, err := file.ReadAt(after, 0); err != nil || !bytes.Equal(after, start) {
					t.Errorf("the refused device was changed (%v)", err)
				}
			})
		}
	}
}

func TestStageOfADirtyFilesystemRepairsIt(t *testing.T) {
	b := newBench(t)
	v := b.images.create(t, "v", ext4, sizeOf(ext4))
	b.mustStage(t, v, rwo)
	write(t, b.staging(v)+"/file", "content")
	root, err := os.Open(b.staging(v))
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Syncfs(int(root.Fd())); err != nil {
		t.Fatal(err)
	}
	root.Close()
	// What a power cut leaves on the disk: the image as it is now, journal and all.
	crashed := b.images.create(t, "crashed", block, v.Size)
	content, err := os.ReadFile(b.images.image(v.ID))
	if err == nil {
		err = os.WriteFile(b.images.image(crashed.ID), content, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	crashed.Format = v.Format
	b.images.save(t, crashed)
	b.mustStage(t, crashed, rwo)
	wantContent(t, b.staging(crashed)+"/file", "content")
	if err := b.unstage(t.Context(), crashed); err != nil {
		t.Error(err)
	}
	b.mustEnd(t, v)
}

func TestStageAgainHealsALostStagingMount(t *testing.T) {
	for name, f := range filesystems() {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			v := b.images.create(t, "v", f, sizeOf(f))
			b.mustStage(t, v, rwo)
			b.mustPublish(t, b.publishRequest(v, "old", rwo))
			write(t, b.target("old")+"/file", "content")
			if err := unix.Unmount(b.staging(v), 0); err != nil {
				t.Fatal(err)
			}
			_, err := b.NodePublishVolume(t.Context(), b.publishRequest(v, "new", rwo))
			wantErr(t, err, volume.ErrPrecondition)
			b.mustPublish(t, b.publishRequest(v, "old", rwo)) // a target that is there needs nothing
			b.mustStage(t, v, rwo)
			b.mustPublish(t, b.publishRequest(v, "new", rwo))
			wantContent(t, b.target("new")+"/file", "content")
			if n, err := loop.Find(b.images.tag(v.ID)); err != nil || len(n) != 1 {
				t.Errorf("%d devices, %v; want the one", len(n), err)
			}
			b.mustEnd(t, v, "old", "new")
		})
	}
}

func TestStageUnderSomethingElseIsRefused(t *testing.T) {
	b := newBench(t)
	v := b.images.create(t, "v", ext4, sizeOf(ext4))
	w := b.images.create(t, "w", ext4, sizeOf(ext4))
	b.mustStage(t, w, rwo)
	req := b.stageRequest(v, rwo)
	req.StagingTargetPath = b.staging(w)
	_, err := b.NodeStageVolume(t.Context(), req)
	wantErr(t, err, volume.ErrPrecondition)
	b.mustEnd(t, w)
}

func TestStageOfABlockVolumeWritesNothingToThePath(t *testing.T) {
	b := newBench(t)
	v := b.images.create(t, "v", block, sizeOf(block))
	b.mustStage(t, v, rwo)
	b.mustStage(t, v, rwo)
	if _, err := os.Lstat(b.staging(v)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something is at the staging path: %v", err)
	}
	found, err := loop.Find(b.images.tag(v.ID))
	if err != nil || len(found) != 1 || found[0].Autoclear {
		t.Errorf("devices %+v, %v; want one that stays", found, err)
	}
	b.mustEnd(t, v)
}

func TestUnstageIsRefusedWhilePublishedAndThenTwiceSucceeds(t *testing.T) {
	for name, f := range map[string]volume.Format{"ext4": ext4, "block": block} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			v := b.images.create(t, "v", f, sizeOf(f))
			b.mustStage(t, v, rwo)
			b.mustPublish(t, b.publishRequest(v, "rw", rwo))
			b.mustPublish(t, readOnly(b.publishRequest(v, "ro", rwo)))
			for _, target := range []string{"rw", "ro"} {
				before := b.mounts(t)
				err := b.unstage(t.Context(), v)
				wantErr(t, err, volume.ErrInUse)
				if err != nil && !strings.Contains(err.Error(), b.target(target)) {
					t.Errorf("error %q does not name %s", err, b.target(target))
				}
				if after := b.mounts(t); len(after) != len(before) {
					t.Errorf("a refused unstage left %v of %v", after, before)
				}
				if err := b.unpublish(t.Context(), v, target); err != nil {
					t.Fatal(err)
				}
			}
			b.mustEnd(t, v)
			b.mustEnd(t, v)
		})
	}
}

func TestUnstageRemovesEveryLayer(t *testing.T) {
	b := newBench(t)
	v := b.images.create(t, "v", ext4, sizeOf(ext4))
	b.mustStage(t, v, rwo)
	for range 2 {
		if err := unix.Mount("none", b.staging(v), "tmpfs", 0, "size=64k"); err != nil {
			t.Fatal(err)
		}
	}
	b.mustEnd(t, v)
	if _, err := os.Stat(b.staging(v)); err != nil {
		t.Errorf("the staging directory belongs to the CO: %v", err)
	}
}

func TestUnstageOfAnUnknownVolumeSucceeds(t *testing.T) {
	b := newBench(t)
	for _, id := range []string{"x", string(volume.NewID(volume.KindVolume, testPool, "?"))} {
		if _, err := b.NodeUnstageVolume(t.Context(), &csi.NodeUnstageVolumeRequest{VolumeId: id, StagingTargetPath: b.target("none")}); err != nil {
			t.Errorf("%s: %v", id, err)
		}
	}
}

func TestUnstageSucceedsWhileAnotherNamespaceHoldsTheMount(t *testing.T) {
	for name, f := range filesystems() {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			v := b.images.create(t, "v", f, sizeOf(f))
			b.mustStage(t, v, rwo)
			write(t, b.staging(v)+"/file", "content")
			// A mount that is attached nowhere is as invisible as one in another
			// namespace, and holds the filesystem as well.
			staged, err := b.root.OpenTarget(b.staging(v))
			if err != nil {
				t.Fatal(err)
			}
			elsewhere, err := mount.Bind(staged.File(), false)
			if err != nil {
				t.Fatal(err)
			}
			staged.Close()
			if err := b.unstage(t.Context(), v); err != nil {
				t.Fatal(err)
			}
			// Staging again meets the same device, whose filesystem is in use: it must
			// not be checked from outside.
			b.mustStage(t, v, rwo)
			wantContent(t, b.staging(v)+"/file", "content")
			if err := elsewhere.Close(); err != nil {
				t.Fatal(err)
			}
			b.mustEnd(t, v)
		})
	}
}

func TestStageReadOnlyNeverTakesTheVolumeFromItsWriters(t *testing.T) {
	b := newBench(t)
	v := b.images.create(t, "v", xfs, sizeOf(xfs))
	b.mustStage(t, v, rwo)
	b.mustPublish(t, b.publishRequest(v, "writer", rwo))
	if err := unix.Unmount(b.staging(v), 0); err != nil {
		t.Fatal(err)
	}
	v = b.images.expand(t, v, 2*v.Size)
	if err := b.images.Refresh(t.Context(), v.ID); err != nil {
		t.Fatal(err)
	}
	_, err := b.NodeStageVolume(t.Context(), b.stageRequest(v, rox))
	wantErr(t, err, volume.ErrInUse)
	write(t, b.target("writer")+"/file", "still writable")
	b.mustStage(t, v, rwo)
	if got := filesystemSize(t, b.target("writer"), volume.XFS); got != v.Size {
		t.Errorf("filesystem of %s, want %s", got, v.Size)
	}
	b.mustEnd(t, v, "writer")
}
