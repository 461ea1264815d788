package mount_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/test/roottest"
)

func TestMountIsSecureAndShowsItsOptions(t *testing.T) {
	roottest.Require(t)
	dir := tempDir(t)
	root := openRoot(t, dir)
	tree, err := mount.New(t.Context(), mount.Config{
		FSType: "tmpfs", Source: "mine", Options: []mount.Option{{Key: "size", Value: "64k"}},
		Attr: mount.AttrNoExec | mount.AttrNoAtime,
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := layers(t, dir+"/a b"); len(got) != 0 {
		t.Errorf("mounted before Attach: %v", got)
	}
	attachTree(t, root, tree, dir+"/a b", mount.Dir)
	if err := tree.Close(); err != nil {
		t.Fatal(err)
	}
	got := layers(t, dir+"/a b")
	if len(got) != 1 || got[0].FSType != "tmpfs" || got[0].Source != "mine" || !slices.Contains(got[0].SuperOptions, "size=64k") {
		t.Fatalf("mounted %+v", got)
	}
	for _, o := range []string{"nosuid", "nodev", "noexec", "noatime"} {
		if !slices.Contains(got[0].Options, o) {
			t.Errorf("no %s in %v", o, got[0].Options)
		}
	}
	if err := root.RemoveTarget(t.Context(), dir+"/a b"); err != nil {
		t.Fatal(err)
	}
}

func TestTreeThatIsNotAttachedVanishes(t *testing.T) {
	roottest.Require(t)
	tree, err := mount.New(t.Context(), mount.Config{FSType: "tmpfs", Source: "x"})
	if err != nil {
		t.Fatal(err)
	}
	top, err := tree.Root()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := top.ReadDir(-1); err != nil {
		t.Error(err)
	}
	if err := errors.Join(top.Close(), tree.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestFilesystemSaysWhyItRefuses(t *testing.T) {
	roottest.Require(t)
	for _, c := range []struct {
		config mount.Config
		says   string
	}{
		{mount.Config{FSType: "tmpfs", Options: []mount.Option{{Key: "nonsense", Value: "1"}}}, "nonsense"},
		{mount.Config{FSType: "xfs", Source: "/dev/null"}, "/dev/null"},
		{mount.Config{FSType: "nosuchfs", Source: "x"}, "nosuchfs"},
	} {
		_, err := mount.New(t.Context(), c.config)
		if !errors.Is(err, volume.ErrPrecondition) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("New(%v) = %v, want ErrPrecondition about %s", c.config, err, c.says)
		}
	}
}

func TestReadOnlyBindRefusesWritesAndItsSourceDoesNot(t *testing.T) {
	roottest.Require(t)
	dir := tempDir(t)
	root := openRoot(t, dir)
	newTmpfs(t, root, dir+"/stage")
	write(t, dir+"/stage/file", "content")
	for path, readOnly := range map[string]bool{dir + "/ro": true, dir + "/rw": false} {
		source, err := root.OpenTarget(dir + "/stage")
		if err != nil {
			t.Fatal(err)
		}
		tree, err := mount.Bind(source.File(), readOnly)
		if err != nil {
			t.Fatal(err)
		}
		if err := tree.SetAttr(mount.AttrNoExec | mount.AttrStrictAtime); err != nil {
			t.Error(err)
		}
		attachTree(t, root, tree, path, mount.Dir)
		if err := errors.Join(tree.Close(), source.Close()); err != nil {
			t.Fatal(err)
		}
		info := layers(t, path)[0]
		if info.ReadOnly() != readOnly || !slices.Contains(info.Options, "nosuid") || !slices.Contains(info.Options, "noexec") {
			t.Errorf("%s has options %v", path, info.Options)
		}
		if b, err := os.ReadFile(path + "/file"); err != nil || string(b) != "content" {
			t.Errorf("read %q, %v", b, err)
		}
		err = os.WriteFile(path+"/new", nil, 0o600)
		if readOnly != errors.Is(err, syscall.EROFS) {
			t.Errorf("write to %s = %v", path, err)
		}
	}
	write(t, dir+"/stage/file", "changed")
	for _, name := range []string{"/ro", "/rw", "/stage"} {
		if err := root.RemoveTarget(t.Context(), dir+name); err != nil {
			t.Error(err)
		}
	}
}

func TestBindOfADeviceNodeCanBeUsed(t *testing.T) {
	roottest.Require(t)
	dir := tempDir(t)
	root := openRoot(t, dir)
	node, err := os.Open("/dev/zero")
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	tree, err := mount.Bind(node, false)
	if err != nil {
		t.Fatal(err)
	}
	wrong, err := root.CreateTarget(dir+"/wrong", mount.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := tree.Attach(wrong); !errors.Is(err, volume.ErrPrecondition) {
		t.Errorf("Attach of a device on a directory = %v, want ErrPrecondition", err)
	}
	wrong.Close()
	attachTree(t, root, tree, dir+"/dev", mount.File)
	tree.Close()
	opened, err := os.Open(dir + "/dev")
	if err != nil {
		t.Fatal(err)
	}
	buf := []byte{1, 2, 3}
	if _, err := opened.Read(buf); err != nil || !bytes.Equal(buf, make([]byte, 3)) {
		t.Errorf("read %v, %v", buf, err)
	}
	opened.Close()
	if err := root.RemoveTarget(t.Context(), dir+"/dev"); err != nil {
		t.Error(err)
	}
}

func TestEveryLayerIsUnmounted(t *testing.T) {
	roottest.Require(t)
	dir := tempDir(t)
	root := openRoot(t, dir)
	for range 4 {
		newTmpfs(t, root, dir+"/t")
	}
	got := layers(t, dir+"/t")
	if len(got) != 4 {
		t.Fatalf("%d layers", len(got))
	}
	for i := 1; i < len(got); i++ {
		if got[i].Parent != got[i-1].ID {
			t.Errorf("layer %d is not on layer %d", i, i-1)
		}
	}
	for range 2 {
		if err := root.Unmount(t.Context(), dir+"/t"); err != nil {
			t.Fatal(err)
		}
	}
	if got := layers(t, dir+"/t"); len(got) != 0 {
		t.Errorf("still %v", got)
	}
}

func TestBusyMountIsInUse(t *testing.T) {
	roottest.Require(t)
	dir := tempDir(t)
	root := openRoot(t, dir)
	newTmpfs(t, root, dir+"/t")
	busy, err := os.Create(dir + "/t/open")
	if err != nil {
		t.Fatal(err)
	}
	if err := root.RemoveTarget(t.Context(), dir+"/t"); !errors.Is(err, volume.ErrInUse) {
		t.Errorf("RemoveTarget with an open file = %v, want ErrInUse", err)
	}
	// Who only looks lets go in a moment.
	time.AfterFunc(20*time.Millisecond, func() { busy.Close() })
	if err := root.RemoveTarget(t.Context(), dir+"/t"); err != nil {
		t.Error(err)
	}
}

func TestSetReadOnlyReachesEveryMountOfTheFilesystem(t *testing.T) {
	roottest.Require(t)
	dir := tempDir(t)
	root := openRoot(t, dir)
	tree, err := mount.New(t.Context(), mount.Config{FSType: "tmpfs", Source: "x"})
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	attachTree(t, root, tree, dir+"/t", mount.Dir)
	open, err := os.Create(dir + "/t/open")
	if err != nil {
		t.Fatal(err)
	}
	if err := tree.SetReadOnly(); !errors.Is(err, volume.ErrInUse) {
		t.Errorf("SetReadOnly with a file open for writing = %v, want ErrInUse", err)
	}
	open.Close()
	if err := tree.SetReadOnly(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/t/new", nil, 0o600); !errors.Is(err, syscall.EROFS) {
		t.Errorf("write = %v, want EROFS", err)
	}
	if !layers(t, dir+"/t")[0].ReadOnly() {
		t.Error("mountinfo does not show it")
	}
	tree.Close()
	if err := root.RemoveTarget(t.Context(), dir+"/t"); err != nil {
		t.Error(err)
	}
}

// A FUSE filesystem whose server is gone answers every call with ENOTCONN.
func TestDeadFilesystemIsUnmounted(t *testing.T) {
	roottest.Require(t)
	dir := tempDir(t)
	root := openRoot(t, dir)
	target, err := root.CreateTarget(dir+"/dead", mount.Dir)
	if err != nil {
		t.Fatal(err)
	}
	target.Close()
	server, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no FUSE here: %v", err)
	}
	options := "fd=" + strconv.Itoa(int(server.Fd())) + ",rootmode=40000,user_id=0,group_id=0"
	if err := unix.Mount("dead", dir+"/dead", "fuse", 0, options); err != nil {
		t.Fatal(err)
	}
	server.Close()
	if _, err := os.Stat(dir + "/dead"); !errors.Is(err, syscall.ENOTCONN) {
		t.Fatalf("stat = %v, want ENOTCONN", err)
	}
	if got, err := root.Resolve(dir + "/dead"); err != nil || got != dir+"/dead" {
		t.Errorf("Resolve = %q, %v", got, err)
	}
	if err := root.RemoveTarget(t.Context(), dir+"/dead"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir + "/dead"); !os.IsNotExist(err) {
		t.Errorf("stat after RemoveTarget = %v", err)
	}
}

// What holds a device for itself, as a filesystem check does, ends by itself.
func TestDeviceThatSomebodyHasForHimselfIsBusy(t *testing.T) {
	roottest.Require(t)
	image, err := os.OpenFile(filepath.Join(t.TempDir(), "disk.img"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	if err := image.Truncate(int64(16 * volume.MiB)); err != nil {
		t.Fatal(err)
	}
	dev, err := loop.Attach(t.Context(), loop.Config{Backing: image, Tag: "mount-test", BlockSize: 4096})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	check, err := os.OpenFile(dev.Path(), os.O_RDWR|os.O_EXCL, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer check.Close()
	for _, fs := range []string{"ext4", "xfs"} {
		if _, err := mount.New(t.Context(), mount.Config{FSType: fs, Source: dev.Path()}); !errors.Is(err, volume.ErrBusy) {
			t.Errorf("New(%s) = %v, want ErrBusy", fs, err)
		}
	}
}

func TestUnmountWithAnEndedContextLeavesEverything(t *testing.T) {
	roottest.Require(t)
	dir := tempDir(t)
	root := openRoot(t, dir)
	newTmpfs(t, root, dir+"/t")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	before := descriptors(t)
	if err := root.Unmount(ctx, dir+"/t"); !errors.Is(err, context.Canceled) {
		t.Errorf("Unmount = %v, want Canceled", err)
	}
	if after := descriptors(t); after != before {
		t.Errorf("%d file descriptors are open, before it were %d", after, before)
	}
	if len(layers(t, dir+"/t")) != 1 {
		t.Error("it was unmounted")
	}
	if err := root.RemoveTarget(t.Context(), dir+"/t"); err != nil {
		t.Error(err)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
