package filesystem_test

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/filesystem"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// A process that can open nothing more knows nothing about the filesystem.
func TestAliveDoesNotTakeAFullProcessForADeadFilesystem(t *testing.T) {
	root, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	err = filesystem.Alive(root)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(err, unix.EMFILE) || errors.Is(err, volume.ErrPrecondition) {
		t.Errorf("Alive = %v, want only EMFILE", err)
	}
	if err := filesystem.Alive(root); err != nil {
		t.Error(err)
	}
}
