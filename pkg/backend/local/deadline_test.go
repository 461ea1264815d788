package local

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// writeUnderway begins to write to a file and does not end before finish: FIFREEZE
// waits for it.
func writeUnderway(t *testing.T, root *os.File) (finish func()) {
	t.Helper()
	fd, err := unix.Openat(int(root.Fd()), "file", unix.O_WRONLY|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := unix.Splice(pipe[0], nil, fd, nil, 1, 0)
		ended <- errors.Join(err, unix.Close(fd), unix.Close(pipe[0]))
	}()
	time.Sleep(100 * time.Millisecond) // until it is inside
	return func() {
		if err := errors.Join(unix.Close(pipe[1]), <-ended); err != nil {
			t.Error(err)
		}
	}
}

func TestADeadlineThatPassesWhileItFreezesLeavesNothingFrozenAndNothingIsCopied(t *testing.T) {
	const timeout, freeze = 500 * time.Millisecond, 1500 * time.Millisecond
	var steps []string
	b := newBench(t, volume.GiB, func(step string) error {
		steps = append(steps, step)
		return nil
	}, "default")
	id, root := b.mounted("a", volume.XFS)
	b.Backend.cfg.FreezeTimeout = timeout
	steps = nil
	finish := writeUnderway(t, root)
	begun := time.Now()
	time.AfterFunc(freeze, finish)
	err := b.snapshot("s", id)
	if took := time.Since(begun); took < freeze {
		t.Fatalf("the freeze did not wait for the writer, it took %s", took)
	}
	if !errors.Is(err, volume.ErrUnavailable) || !strings.Contains(err.Error(), "took longer than "+timeout.String()) {
		t.Errorf("got %v", err)
	}
	if isFrozen(t, root) {
		t.Error("it is frozen")
	}
	if all := strings.Join(steps, " "); strings.Contains(all, "freeze/frozen") {
		t.Errorf("it was copied: %s", all)
	}
	b.Backend.cfg.FreezeTimeout = DefaultFreezeTimeout
	if err := b.snapshot("s", id); err != nil {
		t.Errorf("the same call again: %v", err)
	}
}

// The watchdog counts from the intent too: the driver must be the first to act.
func TestTheTimeOfAFreezeCountsFromItsIntent(t *testing.T) {
	const timeout = 500 * time.Millisecond
	slow := true
	b := newBench(t, volume.GiB, func(step string) error {
		if step == "freeze/intent" && slow {
			time.Sleep(2 * timeout)
		}
		return nil
	}, "default")
	id, root := b.mounted("a", volume.Ext4)
	b.Backend.cfg.FreezeTimeout = timeout
	if err := b.snapshot("s", id); !errors.Is(err, volume.ErrUnavailable) || !strings.Contains(err.Error(), "took longer") {
		t.Errorf("got %v", err)
	}
	if isFrozen(t, root) {
		t.Error("it is frozen")
	}
	slow, b.Backend.cfg.FreezeTimeout = false, DefaultFreezeTimeout
	if err := b.snapshot("s", id); err != nil {
		t.Errorf("the same call again: %v", err)
	}
}
