package tree

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/test/roottest"
)

// withoutCapability calls fn on a thread that lacks a capability.
func withoutCapability(t *testing.T, number int, fn func()) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with us
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var have [2]unix.CapUserData
		err := unix.Capget(&header, &have[0])
		if err == nil {
			have[number/32].Effective &^= 1 << (number % 32)
			err = unix.Capset(&header, &have[0])
		}
		if err == nil {
			fn()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// A driver that may not ask does not take silence for an answer.
func TestWhoMayNotAskForWritersIsTold(t *testing.T) {
	roottest.Require(t)
	path := filepath.Join(t.TempDir(), "file")
	if err := errors.Join(os.WriteFile(path, []byte("x"), 0o600), os.Chown(path, 1000, 1000)); err != nil {
		t.Fatal(err)
	}
	f := open1(t, path)
	withoutCapability(t, unix.CAP_LEASE, func() {
		if told, err := CheckNoWriter(f); told || !errors.Is(err, volume.ErrPrecondition) || !strings.Contains(err.Error(), "LEASE") {
			t.Errorf("without the capability: %t, %v", told, err)
		}
	})
	if told, err := CheckNoWriter(f); !told || err != nil {
		t.Errorf("with it: %t, %v", told, err)
	}
}

func TestWhatHasNoLeasesDoesNotTell(t *testing.T) {
	if told, err := CheckNoWriter(open1(t, os.DevNull)); told || err != nil {
		t.Errorf("%t, %v", told, err)
	}
}
