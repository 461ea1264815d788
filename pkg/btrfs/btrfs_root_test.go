package btrfs

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/test/roottest"
	"github.com/holdfast-csi/holdfast/test/scratch"
)

func TestMain(m *testing.M) { roottest.Main(m) }

// newFilesystem mounts a new btrfs and opens its root.
func newFilesystem(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Open(scratch.Btrfs(t, 1, 512*volume.MiB))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func open(t *testing.T, dir *os.File, name string) *os.File {
	t.Helper()
	f, err := os.Open(filepath.Join(dir.Name(), name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestASnapshotKeepsWhatItsSourceLoses(t *testing.T) {
	root := newFilesystem(t)
	if err := CreateSubvolume(root, "a"); err != nil {
		t.Fatal(err)
	}
	a := open(t, root, "a")
	file := filepath.Join(a.Name(), "file")
	if err := os.WriteFile(file, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Snapshot(a, root, "frozen", true); err != nil {
		t.Fatal(err)
	}
	if err := Snapshot(open(t, root, "frozen"), root, "copy", false); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"frozen", "copy"} {
		if got, err := os.ReadFile(filepath.Join(root.Name(), name, "file")); err != nil || string(got) != "old" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if err := os.WriteFile(filepath.Join(root.Name(), "frozen/file"), nil, 0o600); err == nil {
		t.Error("a read-only snapshot was written to")
	}
	if err := os.WriteFile(filepath.Join(root.Name(), "copy/file"), []byte("own"), 0o600); err != nil {
		t.Error(err)
	}
	ids := map[string]bool{}
	for _, name := range []string{"a", "frozen", "copy"} {
		uuid, err := SubvolumeUUID(open(t, root, name))
		if err != nil || ids[uuid] {
			t.Errorf("%s has the UUID %s, %v", name, uuid, err)
		}
		ids[uuid] = true
	}
}

func TestADestroyedSubvolumeIsDroppedSoon(t *testing.T) {
	root := newFilesystem(t)
	if err := CreateSubvolume(root, "a"); err != nil {
		t.Fatal(err)
	}
	a := open(t, root, "a")
	id, err := SubvolumeID(a)
	if err != nil {
		t.Fatal(err)
	}
	a.Close()
	if gone, err := Dropped(root, id); err != nil || gone {
		t.Fatalf("it is dropped before it was destroyed: %v, %v", gone, err)
	}
	if err := DestroySubvolume(root, "a"); err != nil {
		t.Fatal(err)
	}
	if err := WakeCleaner(root); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		gone, err := Dropped(root, id)
		if err != nil {
			t.Fatal(err)
		}
		if gone {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatal("the cleaner was not woken")
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func TestNoCowIsRefusedOnAFileWithData(t *testing.T) {
	root := newFilesystem(t)
	empty, err := os.Create(filepath.Join(root.Name(), "empty"))
	if err != nil {
		t.Fatal(err)
	}
	defer empty.Close()
	if err := SetNoCow(empty); err != nil {
		t.Error(err)
	}
	full, err := os.Create(filepath.Join(root.Name(), "full"))
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	if _, err := full.WriteString("data"); err != nil {
		t.Fatal(err)
	}
	if err := full.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := SetNoCow(full); err == nil {
		t.Error("the flag was taken for a file with data, which the kernel ignores")
	}
}

func TestTheFilesystemIsKnownByItsUUID(t *testing.T) {
	root := newFilesystem(t)
	uuid, err := FilesystemUUID(root)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat("/sys/fs/btrfs/" + uuid); err != nil {
		t.Error(err)
	}
}

func TestLastSnapshotOutlivesTheSnapshot(t *testing.T) {
	root := newFilesystem(t)
	if err := CreateSubvolume(root, "a"); err != nil {
		t.Fatal(err)
	}
	a := open(t, root, "a")
	last := func(dir *os.File) uint64 {
		t.Helper()
		id, err := SubvolumeID(dir)
		if err != nil {
			t.Fatal(err)
		}
		n, err := LastSnapshot(root, id)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := last(a); n != 0 {
		t.Errorf("a new subvolume says it was snapshotted in transaction %d", n)
	}
	if err := Snapshot(a, root, "s", false); err != nil {
		t.Fatal(err)
	}
	if last(a) == 0 || last(open(t, root, "s")) == 0 {
		t.Errorf("the source says %d, the snapshot %d", last(a), last(open(t, root, "s")))
	}
	if err := DestroySubvolume(root, "s"); err != nil {
		t.Fatal(err)
	}
	if last(a) == 0 {
		t.Error("the source forgot it with its snapshot")
	}
}

func TestHostileSubvolumeNamesAreRefused(t *testing.T) {
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	for _, name := range []string{"", ".", "..", "a/b", "a\x00b", string(make([]byte, 5000))} {
		if CreateSubvolume(dir, name) == nil || DestroySubvolume(dir, name) == nil || Snapshot(dir, dir, name, true) == nil {
			t.Errorf("%.20q was taken", name)
		}
	}
}
