package node

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/command"
	"github.com/holdfast-csi/holdfast/pkg/fault"
	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/test/roottest"
)

func TestMain(m *testing.M) {
	if step := os.Getenv(crashEnv); step != "" {
		os.Exit(crashAt(step))
	}
	roottest.Main(m)
}

const (
	rwo  = csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER
	rwop = csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER
	rox  = csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY
)

var (
	ext4  = volume.Format{Mode: volume.ModeFilesystem, FSType: volume.Ext4}
	xfs   = volume.Format{Mode: volume.ModeFilesystem, FSType: volume.XFS}
	block = volume.Format{Mode: volume.ModeBlock}
)

// sizeOf is the smallest size that is quick to make.
func sizeOf(f volume.Format) volume.Bytes { return max(f.MinSize(), 32*volume.MiB) }

// bench is a node with a kubelet directory and volumes of its own.
type bench struct {
	*Server
	images *images
	// kubelet is a directory without symbolic links in it.
	kubelet string
}

// newBench needs root. Whatever a test leaves behind is unmounted and detached at
// its end.
func newBench(t testing.TB) *bench {
	t.Helper()
	roottest.Require(t)
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	b := openBench(t, dir, nil)
	t.Cleanup(func() { b.tearDown(t) })
	return b
}

func openBench(t testing.TB, dir string, hook fault.Hook) *bench {
	t.Helper()
	b := &bench{images: &images{dir: filepath.Join(dir, "images")}, kubelet: filepath.Join(dir, "kubelet")}
	for _, d := range []string{b.images.dir, b.kubelet} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	root, err := mount.OpenRoot(b.kubelet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	b.Server = New(Config{NodeID: "node-1", Backend: b.images, Kubelet: root, Runner: command.New(), Fault: hook})
	return b
}

func (b *bench) tearDown(t testing.TB) {
	infos, err := mount.List()
	if err != nil {
		t.Error(err)
	}
	for _, i := range slices.Backward(infos) {
		if strings.HasPrefix(i.Path, b.kubelet+"/") {
			if err := unix.Unmount(i.Path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
				t.Errorf("unmount %s: %v", i.Path, err)
			}
		}
	}
	records, _ := filepath.Glob(filepath.Join(b.images.dir, "*.json"))
	for _, r := range records {
		id := volume.ID(strings.TrimSuffix(filepath.Base(r), ".json"))
		stacked, _ := loop.Find(stackedTag(id))
		for _, l := range stacked {
			if err := detachStacked(l); err != nil {
				t.Error(err)
			}
		}
		if err := b.images.Detach(context.Background(), id); err != nil {
			t.Error(err)
		}
	}
}

func (b *bench) staging(v volume.Volume) string { return filepath.Join(b.kubelet, "stage-"+v.Name) }
func (b *bench) target(name string) string      { return filepath.Join(b.kubelet, "pod-"+name) }

func capabilityOf(f volume.Format, mode csi.VolumeCapability_AccessMode_Mode, flags ...string) *csi.VolumeCapability {
	c := &csi.VolumeCapability{AccessMode: &csi.VolumeCapability_AccessMode{Mode: mode}}
	if f.Mode == volume.ModeBlock {
		c.AccessType = &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}
	} else {
		c.AccessType = &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: string(f.FSType), MountFlags: flags}}
	}
	return c
}

func (b *bench) stageRequest(v volume.Volume, mode csi.VolumeCapability_AccessMode_Mode, flags ...string) *csi.NodeStageVolumeRequest {
	return &csi.NodeStageVolumeRequest{
		VolumeId: string(v.ID), StagingTargetPath: b.staging(v), VolumeCapability: capabilityOf(v.Format, mode, flags...),
	}
}

func (b *bench) publishRequest(v volume.Volume, target string, mode csi.VolumeCapability_AccessMode_Mode) *csi.NodePublishVolumeRequest {
	return &csi.NodePublishVolumeRequest{
		VolumeId: string(v.ID), StagingTargetPath: b.staging(v), TargetPath: b.target(target), VolumeCapability: capabilityOf(v.Format, mode),
	}
}

func readOnly(r *csi.NodePublishVolumeRequest) *csi.NodePublishVolumeRequest {
	r.Readonly = true
	return r
}

func (b *bench) mustStage(t testing.TB, v volume.Volume, mode csi.VolumeCapability_AccessMode_Mode, flags ...string) {
	t.Helper()
	if _, err := b.NodeStageVolume(t.Context(), b.stageRequest(v, mode, flags...)); err != nil {
		t.Fatalf("stage %s: %v", v.Name, err)
	}
}

func (b *bench) mustPublish(t testing.TB, req *csi.NodePublishVolumeRequest) {
	t.Helper()
	if _, err := b.NodePublishVolume(t.Context(), req); err != nil {
		t.Fatalf("publish at %s: %v", req.GetTargetPath(), err)
	}
}

func (b *bench) unpublish(ctx context.Context, v volume.Volume, target string) error {
	_, err := b.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: string(v.ID), TargetPath: b.target(target)})
	return err
}

func (b *bench) unstage(ctx context.Context, v volume.Volume) error {
	_, err := b.NodeUnstageVolume(ctx, &csi.NodeUnstageVolumeRequest{VolumeId: string(v.ID), StagingTargetPath: b.staging(v)})
	return err
}

// mustEnd unpublishes the targets and unstages; then nothing of the volume may be
// left.
func (b *bench) mustEnd(t testing.TB, v volume.Volume, targets ...string) {
	t.Helper()
	for _, target := range targets {
		if err := b.unpublish(t.Context(), v, target); err != nil {
			t.Fatalf("unpublish %s: %v", target, err)
		}
		if _, err := os.Lstat(b.target(target)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("target %s is still there: %v", target, err)
		}
	}
	if err := b.unstage(t.Context(), v); err != nil {
		t.Fatalf("unstage %s: %v", v.Name, err)
	}
	b.wantNothing(t, v)
}

func (b *bench) wantNothing(t testing.TB, v volume.Volume) {
	t.Helper()
	if paths := b.mounts(t); len(paths) > 0 {
		t.Errorf("still mounted: %v", paths)
	}
	for _, tag := range []string{b.images.tag(v.ID), stackedTag(v.ID)} {
		wantDevices(t, tag, 0)
	}
}

// wantDevices waits for the number of loop devices with a tag. A device that was
// let go of stays for as long as anybody on the machine looks at it.
func wantDevices(t testing.TB, tag string, want int) {
	t.Helper()
	for deadline := time.Now().Add(3 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		found, err := loop.Find(tag)
		if err != nil {
			t.Fatal(err)
		}
		if len(found) == want {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("%d loop devices %s, want %d: %+v", len(found), tag, want, found)
			return
		}
	}
}

// mounts are the paths of all mounts below kubelet's directory.
func (b *bench) mounts(t testing.TB) []string {
	t.Helper()
	infos, err := mount.List()
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, i := range infos {
		if strings.HasPrefix(i.Path, b.kubelet+"/") {
			paths = append(paths, i.Path)
		}
	}
	return paths
}

// at is the mount seen at a path.
func at(t testing.TB, path string) mount.Info {
	t.Helper()
	infos, err := mount.List()
	if err != nil {
		t.Fatal(err)
	}
	top, ok := topAt(infos, path)
	if !ok {
		t.Fatalf("nothing is mounted at %s", path)
	}
	return top
}

func wantErr(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("got error %v, want %v", err, want)
	}
}

func write(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func wantContent(t testing.TB, path, want string) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil || string(got) != want {
		t.Errorf("%s holds %.40q, %v; want %q", path, got, err, want)
	}
}

// writeDevice writes to a block device past the page cache, and says why if it
// cannot.
func writeDevice(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_SYNC, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(b, 0)
	return errors.Join(err, f.Close())
}

func wantDevice(t testing.TB, path string, want []byte) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got := make([]byte, len(want))
	if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s holds %.20q, %v; want %.20q", path, got, err, want)
	}
}
