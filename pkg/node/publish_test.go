package node

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func TestPublishAgainLeavesTheMountAlone(t *testing.T) {
	for name, f := range formatsToCrash() {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			v := b.images.create(t, "v", f, sizeOf(f))
			b.mustStage(t, v, rwo)
			for _, req := range []*csi.NodePublishVolumeRequest{b.publishRequest(v, "rw", rwo), readOnly(b.publishRequest(v, "ro", rwo))} {
				b.mustPublish(t, req)
				first := at(t, req.GetTargetPath())
				// Tokens differ from call to call, wherever Kubernetes puts them.
				req.VolumeContext = map[string]string{"csi.storage.k8s.io/serviceAccount.tokens": `{"vault":{"token":"another"}}`}
				req.Secrets = map[string]string{"csi.storage.k8s.io/serviceAccount.tokens": "secret"}
				for range 3 {
					b.mustPublish(t, req)
				}
				if again := at(t, req.GetTargetPath()); again.ID != first.ID {
					t.Errorf("mount %d became %d", first.ID, again.ID)
				}
			}
			b.mustEnd(t, v, "rw", "ro")
		})
	}
}

func TestPublishReadOnlyIsReallyReadOnly(t *testing.T) {
	b := newBench(t)
	v := b.images.create(t, "v", ext4, sizeOf(ext4))
	b.mustStage(t, v, rwo)
	b.mustPublish(t, b.publishRequest(v, "rw", rwo))
	b.mustPublish(t, readOnly(b.publishRequest(v, "ro", rwo)))
	b.mustPublish(t, b.publishRequest(v, "rox", rox))
	flag := b.publishRequest(v, "flag", rwo)
	flag.VolumeCapability = capabilityOf(ext4, rwo, "ro")
	b.mustPublish(t, flag)
	write(t, b.target("rw")+"/file", "content")
	for _, target := range []string{"ro", "rox", "flag"} {
		path := b.target(target) + "/file"
		wantContent(t, path, "content")
		for what, err := range map[string]error{
			"write":  os.WriteFile(path, []byte("x"), 0),
			"create": os.WriteFile(path+"2", []byte("x"), 0o600),
			"chmod":  os.Chmod(path, 0o777),
			"remove": os.Remove(path),
			"mkdir":  os.Mkdir(path+"3", 0o700),
		} {
			if !errors.Is(err, unix.EROFS) {
				t.Errorf("%s: %s: %v, want EROFS", target, what, err)
			}
		}
	}
	b.mustEnd(t, v, "rw", "ro", "rox", "flag")
}

func TestPublishAtATargetThatIsTakenIsRefused(t *testing.T) {
	for name, f := range map[string]volume.Format{"ext4": ext4, "block": block} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			v := b.images.create(t, "v", f, sizeOf(f))
			w := b.images.create(t, "w", f, sizeOf(f))
			b.mustStage(t, v, rwo)
			b.mustStage(t, w, rwo)
			b.mustPublish(t, b.publishRequest(v, "rw", rwo))
			b.mustPublish(t, readOnly(b.publishRequest(v, "ro", rwo)))
			for what, req := range map[string]*csi.NodePublishVolumeRequest{
				"read-only over writable":  readOnly(b.publishRequest(v, "rw", rwo)),
				"writable over read-only":  b.publishRequest(v, "ro", rwo),
				"another volume":           b.publishRequest(w, "rw", rwo),
				"another volume read-only": readOnly(b.publishRequest(w, "ro", rwo)),
			} {
				_, err := b.NodePublishVolume(t.Context(), req)
				t.Log(what)
				wantErr(t, err, volume.ErrExists)
			}
			if err := b.unpublish(t.Context(), v, "ro"); err != nil {
				t.Fatal(err)
			}
			if err := b.unpublish(t.Context(), v, "rw"); err != nil {
				t.Fatal(err)
			}
			if err := b.unstage(t.Context(), w); err != nil {
				t.Fatal(err)
			}
			b.mustEnd(t, v)
		})
	}
}

func TestPublishWithoutAStagedVolumeWritesNothing(t *testing.T) {
	for name, f := range map[string]volume.Format{"ext4": ext4, "block": block} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			v := b.images.create(t, "v", f, sizeOf(f))
			if err := os.Mkdir(b.staging(v), 0o700); err != nil {
				t.Fatal(err)
			}
			for _, attached := range []bool{false, true} {
				if attached && f.Mode == volume.ModeFilesystem {
					// Attached, but the staging path is no mount: the data would land on
					// the root disk.
					dev, err := b.images.Attach(t.Context(), v.ID)
					if err != nil {
						t.Fatal(err)
					}
					defer dev.Close()
				} else if attached {
					continue
				}
				_, err := b.NodePublishVolume(t.Context(), b.publishRequest(v, "p", rwo))
				wantErr(t, err, volume.ErrPrecondition)
				if _, err := os.Lstat(b.target("p")); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("the target was made: %v", err)
				}
			}
		})
	}
}

func TestPublishFromAStagingPathOfAnotherVolumeIsRefused(t *testing.T) {
	b := newBench(t)
	v := b.images.create(t, "v", ext4, sizeOf(ext4))
	w := b.images.create(t, "w", ext4, sizeOf(ext4))
	b.mustStage(t, v, rwo)
	b.mustStage(t, w, rwo)
	req := b.publishRequest(v, "p", rwo)
	req.StagingTargetPath = b.staging(w)
	_, err := b.NodePublishVolume(t.Context(), req)
	wantErr(t, err, volume.ErrPrecondition)
	if err := b.unstage(t.Context(), w); err != nil {
		t.Fatal(err)
	}
	b.mustEnd(t, v)
}

func TestASinglePodVolumeHasOneTarget(t *testing.T) {
	for name, f := range map[string]volume.Format{"ext4": ext4, "block": block} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			v := b.images.create(t, "v", f, sizeOf(f))
			b.mustStage(t, v, rwop)
			var wg sync.WaitGroup
			errs := make([]error, 8)
			for i := range errs {
				wg.Go(func() {
					_, errs[i] = b.NodePublishVolume(t.Context(), b.publishRequest(v, strconv.Itoa(i), rwop))
				})
			}
			wg.Wait()
			published := ""
			for i, err := range errs {
				if err == nil {
					if published != "" {
						t.Errorf("published at %s and at %d", published, i)
					}
					published = strconv.Itoa(i)
					continue
				}
				wantErr(t, err, volume.ErrPrecondition)
			}
			if published == "" {
				t.Fatal("nobody got the volume")
			}
			b.mustPublish(t, b.publishRequest(v, published, rwop))
			_, err := b.NodePublishVolume(t.Context(), readOnly(b.publishRequest(v, "reader", rwop)))
			wantErr(t, err, volume.ErrPrecondition)
			if err := b.unpublish(t.Context(), v, published); err != nil {
				t.Fatal(err)
			}
			b.mustPublish(t, b.publishRequest(v, "next", rwop))
			b.mustEnd(t, v, "next")
		})
	}
}

func TestAVolumeOfOneNodeMayHaveManyTargets(t *testing.T) {
	b := newBench(t)
	v := b.images.create(t, "v", ext4, sizeOf(ext4))
	b.mustStage(t, v, rwo)
	for _, mode := range []csi.VolumeCapability_AccessMode_Mode{rwo, csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER} {
		b.mustPublish(t, b.publishRequest(v, mode.String(), mode))
	}
	b.mustEnd(t, v, rwo.String(), csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER.String())
}

func TestUnpublishRemovesEveryLayerAndTwiceSucceeds(t *testing.T) {
	b := newBench(t)
	v := b.images.create(t, "v", ext4, sizeOf(ext4))
	b.mustStage(t, v, rwo)
	b.mustPublish(t, b.publishRequest(v, "p", rwo))
	if err := unix.Mount(b.staging(v), b.target("p"), "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := b.unpublish(t.Context(), v, "p"); err != nil {
			t.Fatal(err)
		}
	}
	b.mustEnd(t, v)
}

func TestUnpublishOfAnUnknownVolumeCleansTheTarget(t *testing.T) {
	b := newBench(t)
	for _, id := range []string{"x", "../..", string(volume.NewID(volume.KindVolume, testPool, "?"))} {
		if err := os.Mkdir(b.target("p"), 0o700); err != nil {
			t.Fatal(err)
		}
		if _, err := b.NodeUnpublishVolume(t.Context(), &csi.NodeUnpublishVolumeRequest{VolumeId: id, TargetPath: b.target("p")}); err != nil {
			t.Errorf("%s: %v", id, err)
		}
		if _, err := os.Lstat(b.target("p")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: the target is still there: %v", id, err)
		}
	}
}

func TestUnpublishNeverDeletesFiles(t *testing.T) {
	b := newBench(t)
	v := b.images.create(t, "v", ext4, sizeOf(ext4))
	if err := os.Mkdir(b.target("p"), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, b.target("p")+"/file", "somebody's")
	wantErr(t, b.unpublish(t.Context(), v, "p"), volume.ErrPrecondition)
	wantContent(t, b.target("p")+"/file", "somebody's")
}

func TestPublishRefuses(t *testing.T) {
	b := newBench(t)
	v := b.images.create(t, "v", ext4, sizeOf(ext4))
	b.mustStage(t, v, rwo)
	edit := func(change func(*csi.NodePublishVolumeRequest)) *csi.NodePublishVolumeRequest {
		r := b.publishRequest(v, "p", rwo)
		change(r)
		return r
	}
	for name, tc := range map[string]struct {
		req  *csi.NodePublishVolumeRequest
		want error
	}{
		"no id":           {edit(func(r *csi.NodePublishVolumeRequest) { r.VolumeId = "" }), volume.ErrInvalid},
		"no target":       {edit(func(r *csi.NodePublishVolumeRequest) { r.TargetPath = "" }), volume.ErrInvalid},
		"no capability":   {edit(func(r *csi.NodePublishVolumeRequest) { r.VolumeCapability = nil }), volume.ErrInvalid},
		"no staging path": {edit(func(r *csi.NodePublishVolumeRequest) { r.StagingTargetPath = "" }), volume.ErrPrecondition},
		"a malformed id":  {edit(func(r *csi.NodePublishVolumeRequest) { r.VolumeId = "../x" }), volume.ErrNotFound},
		"an unknown id": {edit(func(r *csi.NodePublishVolumeRequest) {
			r.VolumeId = string(volume.NewID(volume.KindVolume, testPool, "?"))
		}), volume.ErrNotFound},
		"the wrong mode":           {edit(func(r *csi.NodePublishVolumeRequest) { r.VolumeCapability = capabilityOf(block, rwo) }), volume.ErrPrecondition},
		"the wrong fs":             {edit(func(r *csi.NodePublishVolumeRequest) { r.VolumeCapability = capabilityOf(xfs, rwo) }), volume.ErrPrecondition},
		"many writers":             {edit(func(r *csi.NodePublishVolumeRequest) { r.VolumeCapability = capabilityOf(ext4, 5) }), volume.ErrPrecondition},
		"a mount option":           {edit(func(r *csi.NodePublishVolumeRequest) { r.VolumeCapability = capabilityOf(ext4, rwo, "X-mount.mkdir") }), volume.ErrInvalid},
		"the staging path":         {edit(func(r *csi.NodePublishVolumeRequest) { r.TargetPath = r.StagingTargetPath }), volume.ErrInvalid},
		"a path outside":           {edit(func(r *csi.NodePublishVolumeRequest) { r.TargetPath = filepath.Join(b.images.dir, "x") }), volume.ErrInvalid},
		"a path with dots":         {edit(func(r *csi.NodePublishVolumeRequest) { r.TargetPath = b.kubelet + "/../images/x" }), volume.ErrInvalid},
		"a relative path":          {edit(func(r *csi.NodePublishVolumeRequest) { r.TargetPath = "pod" }), volume.ErrInvalid},
		"a control character":      {edit(func(r *csi.NodePublishVolumeRequest) { r.TargetPath = b.target("a\nb") }), volume.ErrInvalid},
		"a name too long":          {edit(func(r *csi.NodePublishVolumeRequest) { r.TargetPath = b.target(strings.Repeat("a", 300)) }), volume.ErrInvalid},
		"a path of 5 MB":           {edit(func(r *csi.NodePublishVolumeRequest) { r.TargetPath = b.target(strings.Repeat("a/", 5<<19)) }), volume.ErrInvalid},
		"a missing parent of many": {edit(func(r *csi.NodePublishVolumeRequest) { r.TargetPath = b.target("a/b/c/d") }), volume.ErrPrecondition},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := b.NodePublishVolume(t.Context(), tc.req)
			wantErr(t, err, tc.want)
		})
	}
	if got := b.mounts(t); len(got) != 1 {
		t.Errorf("mounts %v, want the staging path alone", got)
	}
	if entries, _ := os.ReadDir(b.kubelet); len(entries) != 1 {
		t.Errorf("left %v behind", entries)
	}
	b.mustEnd(t, v)
}

func TestSymbolicLinksAreNeverFollowed(t *testing.T) {
	b := newBench(t)
	v := b.images.create(t, "v", ext4, sizeOf(ext4))
	outside := t.TempDir()
	link := func(name string) string {
		path := filepath.Join(b.kubelet, name)
		if err := os.Symlink(outside, path); err != nil {
			t.Fatal(err)
		}
		return path
	}
	direct, parent := link("direct"), link("parent")+"/child"
	for _, path := range []string{direct, parent} {
		stage := b.stageRequest(v, rwo)
		stage.StagingTargetPath = path
		_, err := b.NodeStageVolume(t.Context(), stage)
		wantErr(t, err, volume.ErrInvalid)
		b.wantNothing(t, v)
	}
	b.mustStage(t, v, rwo)
	for _, path := range []string{direct, parent} {
		publish := b.publishRequest(v, "p", rwo)
		publish.TargetPath = path
		_, err := b.NodePublishVolume(t.Context(), publish)
		wantErr(t, err, volume.ErrInvalid)
		_, err = b.NodeUnpublishVolume(t.Context(), &csi.NodeUnpublishVolumeRequest{VolumeId: string(v.ID), TargetPath: path})
		wantErr(t, err, volume.ErrInvalid)
		_, err = b.NodeGetVolumeStats(t.Context(), &csi.NodeGetVolumeStatsRequest{VolumeId: string(v.ID), VolumePath: path})
		wantErr(t, err, volume.ErrNotFound)
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) > 0 {
		t.Errorf("something was made where the links lead: %v, %v", entries, err)
	}
	b.mustEnd(t, v)
}

func TestNothingIsMadeOrRemovedInsideAVolume(t *testing.T) {
	b := newBench(t)
	v := b.images.create(t, "v", ext4, sizeOf(ext4))
	other := b.images.create(t, "other", ext4, sizeOf(ext4))
	b.mustStage(t, v, rwo)
	empty, missing := b.staging(v)+"/empty", b.staging(v)+"/missing"
	if err := os.Mkdir(empty, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{empty, missing, empty + "/missing"} {
		stage := b.stageRequest(other, rwo)
		stage.StagingTargetPath = path
		_, err := b.NodeStageVolume(t.Context(), stage)
		wantErr(t, err, volume.ErrInvalid)
		publish := b.publishRequest(v, "p", rwo)
		publish.TargetPath = path
		_, err = b.NodePublishVolume(t.Context(), publish)
		wantErr(t, err, volume.ErrInvalid)
		_, err = b.NodeUnpublishVolume(t.Context(), &csi.NodeUnpublishVolumeRequest{VolumeId: string(other.ID), TargetPath: path})
		wantErr(t, err, volume.ErrInvalid)
	}
	if mounts := b.mounts(t); len(mounts) != 1 {
		t.Errorf("mounted: %v", mounts)
	}
	if _, err := os.Stat(empty); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(missing); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it was made: %v", err)
	}
	b.mustEnd(t, v)
}

func TestACallThatIsGivenUpLeavesNothing(t *testing.T) {
	b := newBench(t)
	v := b.images.create(t, "v", ext4, sizeOf(ext4))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.NodeStageVolume(ctx, b.stageRequest(v, rwo)); err == nil {
		t.Error("a cancelled stage succeeded")
	}
	b.wantNothing(t, v)
}
