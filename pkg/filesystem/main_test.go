package filesystem_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/holdfast-csi/holdfast/pkg/command"
	"github.com/holdfast-csi/holdfast/pkg/filesystem"
	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/test/roottest"
)

func TestMain(m *testing.M) { roottest.Main(m) }

// everyType is what each test that is not about one filesystem runs on.
func everyType(t *testing.T, test func(t *testing.T, fs volume.FSType)) {
	for _, fs := range []volume.FSType{volume.Ext4, volume.XFS} {
		t.Run(string(fs), func(t *testing.T) { test(t, fs) })
	}
}

func format(fs volume.FSType) volume.Format {
	return volume.Format{Mode: volume.ModeFilesystem, FSType: fs, SectorSize: 4096}
}

// newImage makes an empty sparse image and returns its path.
func newImage(t testing.TB, size volume.Bytes) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.img")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(int64(size)); err != nil {
		t.Fatal(err)
	}
	return path
}

// newFilesystem makes a formatted image, or skips if the tools are not installed.
func newFilesystem(t testing.TB, fs volume.FSType, size volume.Bytes) string {
	t.Helper()
	requireTool(t, "mkfs."+string(fs))
	path := newImage(t, size)
	if err := filesystem.Format(t.Context(), command.New(), path, format(fs)); err != nil {
		t.Fatal(err)
	}
	return path
}

func requireTool(t testing.TB, program string) {
	t.Helper()
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/bin", "/usr/local/sbin"} {
		if _, err := os.Stat(filepath.Join(dir, program)); err == nil {
			return
		}
	}
	t.Skip(program + " is not installed")
}

func truncate(t testing.TB, path string, size volume.Bytes) {
	t.Helper()
	if err := os.Truncate(path, int64(size)); err != nil {
		t.Fatal(err)
	}
}

// attach attaches an image until the end of the test.
func attach(t testing.TB, path string) *loop.Device {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	dev, err := loop.Attach(t.Context(), loop.Config{Backing: f, Tag: "filesystem-test", BlockSize: 4096, DirectIO: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dev.Close() })
	return dev
}

// mounted is a filesystem that is mounted until the end of the test.
type mounted struct {
	dir  string
	root *os.File
	// unmount may be called before the end of the test.
	unmount func()
}

func mountDevice(t testing.TB, dev string, fs volume.FSType, flags ...string) mounted {
	t.Helper()
	options, err := filesystem.ParseMountFlags(fs, flags)
	if err != nil {
		t.Fatal(err)
	}
	tree, err := mount.New(t.Context(), mount.Config{
		FSType: string(fs), Source: dev, Options: options.Super, Attr: options.Attr, ReadOnly: options.ReadOnly,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	base, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	targets, err := mount.OpenRoot(base)
	if err != nil {
		t.Fatal(err)
	}
	target, err := targets.CreateTarget(base+"/mnt", mount.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	if err := tree.Attach(target); err != nil {
		t.Fatal(err)
	}
	root, err := tree.Root()
	if err != nil {
		t.Fatal(err)
	}
	m := mounted{dir: base + "/mnt", root: root}
	m.unmount = func() {
		root.Close()
		if err := targets.RemoveTarget(context.Background(), m.dir); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(func() {
		m.unmount()
		targets.Close()
	})
	return m
}

// fill writes a file of random bytes and returns them.
func fill(t testing.TB, path string, size volume.Bytes) []byte {
	t.Helper()
	data := make([]byte, size)
	rand.Read(data)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return data
}

// overwrite puts bytes into a file at an offset.
func overwrite(t testing.TB, path string, at int64, data []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(data, at); err != nil {
		t.Fatal(err)
	}
}

// copySparse copies what is not zero into an image of zeros.
func copySparse(t testing.TB, to, from string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	chunk := make([]byte, 64<<10)
	for at := int64(0); ; at += int64(len(chunk)) {
		n, err := io.ReadFull(in, chunk)
		if len(bytes.Trim(chunk[:n], "\x00")) > 0 {
			overwrite(t, to, at, chunk[:n])
		}
		if err != nil {
			return
		}
	}
}

func probe(t testing.TB, path string) (filesystem.Superblock, error) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return filesystem.Probe(f)
}

func allocated(t testing.TB, path string) volume.Bytes {
	t.Helper()
	out, err := command.New().Run(t.Context(), "stat", "-c", "%b %B", path)
	if err != nil {
		t.Fatal(err)
	}
	var blocks, unit volume.Bytes
	if _, err := fmt.Sscan(string(out), &blocks, &unit); err != nil {
		t.Fatal(err)
	}
	return blocks * unit
}

// mountBtrfs mounts a pool for the length of the test.
func mountBtrfs(t testing.TB, dev string) (dir string) {
	t.Helper()
	tree, err := mount.New(t.Context(), mount.Config{FSType: "btrfs", Source: dev, Options: []mount.Option{{Key: "nodiscard"}}})
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	base := t.TempDir()
	targets, err := mount.OpenRoot(base)
	if err != nil {
		t.Fatal(err)
	}
	target, err := targets.CreateTarget(base+"/pool", mount.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	if err := tree.Attach(target); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := targets.RemoveTarget(context.Background(), base+"/pool"); err != nil {
			t.Error(err)
		}
		targets.Close()
	})
	return base + "/pool"
}

func identity(st os.FileInfo) (dev, inode uint64) {
	s := st.Sys().(*syscall.Stat_t)
	return s.Dev, s.Ino
}
