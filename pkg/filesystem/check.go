package filesystem

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/holdfast-csi/holdfast/pkg/command"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// Check makes the filesystem on an unmounted device fit to be mounted, as far as
// that is safe: for ext4 it replays the journal and lets e2fsck -p repair what it
// repairs without a question. XFS does all of that when it is mounted. Damage
// beyond that is volume.ErrPrecondition with e2fsck's words; nothing was then
// changed that e2fsck was not sure of. The same goes for a device that is in use.
//
// When ctx ends first, Check returns volume.ErrUnavailable and e2fsck goes on; the
// same call made later waits for it, and then finds its work done.
func Check(ctx context.Context, runner command.Runner, dev string, t volume.FSType) error {
	if t != volume.Ext4 {
		return nil
	}
	return e2fsck(ctx, runner, dev)
}

// The exit status of e2fsck is a set of bits (man 8 e2fsck).
const (
	fsckReboot      = 2 // corrected, and what is in memory about it is stale
	fsckUncorrected = 4
	// Everything above says that e2fsck could not do its work: the device is in
	// use, cannot be read, or has no superblock.
)

func e2fsck(ctx context.Context, runner command.Runner, dev string, flags ...string) error {
	argv := append(append([]string{"e2fsck", "-p"}, flags...), "--", dev)
	out, err := workOn(ctx, runner, dev, argv...)
	status := exitStatus(err)
	if status >= 0 && status < fsckUncorrected && status&fsckReboot != 0 {
		// Nothing is in memory about a filesystem that is not mounted: a second run
		// shows that it is sound now.
		out, err = workOn(ctx, runner, dev, argv...)
		status = exitStatus(err)
	}
	switch {
	case status >= 0 && status < fsckUncorrected:
		return nil
	case status < 0:
		return fmt.Errorf("check the ext4 filesystem on %s: %w", dev, err)
	}
	if status&fsckUncorrected == 0 {
		return fmt.Errorf("%w: the ext4 filesystem on %s could not be checked: see that nothing uses the device and that it can be read, "+
			"and try again (e2fsck said: %s): %w", volume.ErrPrecondition, dev, oneLine(out), err)
	}
	return fmt.Errorf("%w: the ext4 filesystem on %s needs more repair than is safe without a person: take a snapshot of the volume, "+
		"run e2fsck on a clone of it, and go on with the clone; or restore a snapshot (e2fsck said: %s): %w",
		volume.ErrPrecondition, dev, oneLine(out), err)
}

// workOn runs a program that changes the filesystem on dev: killed in the middle of
// it, resize2fs leaves what e2fsck -p does not repair.
func workOn(ctx context.Context, runner command.Runner, dev string, argv ...string) ([]byte, error) {
	device, err := os.Open(dev)
	if err != nil {
		return nil, err
	}
	defer device.Close()
	out, err := runner.RunToEnd(ctx, device, argv...)
	if errors.Is(err, command.ErrRunning) {
		err = fmt.Errorf("%w: the check or resize of %s goes on; the same call finds it done or running: %w", volume.ErrUnavailable, dev, err)
	}
	return out, err
}

// exitStatus is 0 for success, -1 if the program gave none.
func exitStatus(err error) int {
	var failure *command.Error
	switch {
	case err == nil:
		return 0
	case errors.As(err, &failure):
		return failure.ExitCode
	}
	return -1
}

func oneLine(out []byte) string {
	const limit = 1000
	s := strings.Join(strings.FieldsFunc(string(out), func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
	if len(s) > limit {
		s = "..." + s[len(s)-limit:]
	}
	return s
}
