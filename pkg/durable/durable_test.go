package durable

import (
	"errors"
	"io/fs"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func openRoot(t *testing.T) *os.Root {
	t.Helper()
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root
}

func TestWriteFileReplacesAndLeavesNoTemporaryFile(t *testing.T) {
	root := openRoot(t)
	for _, text := range []string{"first, and longer", "second"} {
		if err := WriteFile(root, "record", []byte(text)); err != nil {
			t.Fatal(err)
		}
		if got, err := root.ReadFile("record"); err != nil || string(got) != text {
			t.Errorf("%q, %v", got, err)
		}
	}
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
	info, err := root.Stat("record")
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

func TestWriteFileKeepsTheOldContentOnFailure(t *testing.T) {
	root := openRoot(t)
	if err := WriteFile(root, "record", []byte("old")); err != nil {
		t.Fatal(err)
	}
	// A directory in the way of the temporary file makes writing it fail.
	if err := root.MkdirAll("record"+TempSuffix+"/full", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(root, "record", []byte("new")); err == nil {
		t.Fatal("it was written through a directory")
	}
	if got, err := root.ReadFile("record"); err != nil || string(got) != "old" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestNamesCannotLeaveTheRoot(t *testing.T) {
	root := openRoot(t)
	if err := root.Symlink("/tmp", "out"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"../escaped", "/tmp/escaped", "out/escaped"} {
		if err := WriteFile(root, name, nil); err == nil {
			t.Errorf("%s was written", name)
		}
		if err := Rename(root, "out", name); err == nil {
			t.Errorf("%s was renamed to", name)
		}
	}
}

func TestRemoveTwiceSucceeds(t *testing.T) {
	root := openRoot(t)
	if err := WriteFile(root, "record", nil); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := Remove(root, "record"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := root.Stat("record"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestWriteLockedReplacesNothing(t *testing.T) {
	root := openRoot(t)
	first, err := WriteLocked(root, "intent", []byte("first"))
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if _, err := WriteLocked(root, "intent", []byte("second")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("got %v", err)
	}
	if got, err := root.ReadFile("intent"); err != nil || string(got) != "first" {
		t.Errorf("it has %q, %v", got, err)
	}
	if _, err := root.Stat("intent" + TempSuffix); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("something is left: %v", err)
	}
	if err := root.Remove("intent"); err != nil {
		t.Fatal(err)
	}
	again, err := WriteLocked(root, "intent", []byte("third"))
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestWriteLockedIsLockedWhenItHasItsName(t *testing.T) {
	root := openRoot(t)
	held, err := WriteLocked(root, "intent", []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	other, err := root.Open("intent")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := unix.Flock(int(other.Fd()), unix.LOCK_EX|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
		t.Errorf("somebody else got the lock: %v", err)
	}
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(other.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		t.Errorf("the lock outlived its file: %v", err)
	}
}
