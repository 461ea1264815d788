package loop

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

const discardLimit = "queue/discard_max_bytes"

// SetNoDiscard makes the device refuse discards for as long as it is attached:
// writes 0 to queue/discard_max_bytes and reads it back. A filesystem mounted with
// nodiscard alone still lets fstrim through. It is volume.ErrPrecondition if the
// kernel did not do it.
func (d *Device) SetNoDiscard() error {
	fail := func(err error) error { return fmt.Errorf("stop %s from discarding: %w", d.path, err) }
	have, err := readSysUint(d.index, discardLimit)
	if err != nil {
		return fail(err)
	}
	if have == 0 {
		return nil
	}
	if err := writeSys(d.index, discardLimit, "0"); err != nil {
		return fail(fmt.Errorf("%w: /sys must be writable; in a pod, mount the host's there (hostPath): %w", volume.ErrPrecondition, err))
	}
	if have, err = readSysUint(d.index, discardLimit); err != nil {
		return fail(err)
	}
	if have != 0 {
		return fail(fmt.Errorf("%w: the kernel accepted it and still allows %d bytes", volume.ErrPrecondition, have))
	}
	return nil
}

// hasNoDiscard reports whether SetNoDiscard was called on this index, for this
// attachment or an earlier one. The kernel keeps it, and Linux 6.18 takes
// nothing but 0 any more (block/blk-sysfs.c wants a multiple of the granularity,
// which it set to 0): only a new device gets rid of it.
func hasNoDiscard(index int) (bool, error) {
	limit, err := readSysUint(index, discardLimit)
	if err != nil || limit != 0 {
		return false, err
	}
	hardware, err := readSysUint(index, "queue/discard_max_hw_bytes")
	return hardware != 0, err
}

// renew replaces a device that nobody uses by a new one of the same index, without
// the settings of its earlier users. One that is in use is left alone.
func renew(control *os.File, index int) error {
	err := unix.IoctlSetInt(int(control.Fd()), unix.LOOP_CTL_REMOVE, index)
	if err == nil {
		err = unix.IoctlSetInt(int(control.Fd()), unix.LOOP_CTL_ADD, index)
	}
	if err == nil || errors.Is(err, unix.EBUSY) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EEXIST) {
		return nil
	}
	return fmt.Errorf("make %s anew: %w", devicePath(index), err)
}

// forget renews a device as a courtesy to whoever attaches something to it next;
// Attach does the same for itself.
func forget(index int) {
	control, err := openControl()
	if err != nil {
		return
	}
	defer control.Close()
	_ = renew(control, index)
}

func openControl() (*os.File, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: no loop driver here (modprobe loop, or mount the host's /dev): %w", volume.ErrPrecondition, err)
	}
	return control, nil
}
