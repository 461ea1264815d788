package loop

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// What is written to a filesystem, or to the device itself, waits in memory as
// dirty pages of this "backing device" (Documentation/ABI/testing/sysfs-class-bdi,
// since Linux 6.2).
const (
	bdiStrict   = "bdi/strict_limit"
	bdiMaxBytes = "bdi/max_bytes"
	bdiMaxRatio = "bdi/max_ratio"
	// bdiUnbounded is the default of max_ratio: percent of all dirty memory.
	bdiUnbounded = "100"
)

// SetDirtyLimit bounds how much of what is written to the device may wait in
// memory; 0 removes the bound. The kernel keeps it with the index, across
// attachments, so it must be set anew at each.
//
// The kernel stores it as a share of the memory that may be dirty at all, which
// follows the memory that is free: DirtyLimit says what it has become. A limit
// above all of that is none. It is volume.ErrPrecondition if the kernel cannot do
// it.
func (d *Device) SetDirtyLimit(limit volume.Bytes) error {
	fail := func(err error) error {
		return fmt.Errorf("bound the dirty memory of %s to %s: %w", d.path, limit, err)
	}
	strict, name, value := "1", bdiMaxBytes, strconv.FormatInt(int64(limit), 10)
	if limit == 0 {
		strict, name, value = "0", bdiMaxRatio, bdiUnbounded
	}
	for _, w := range [][2]string{{name, value}, {bdiStrict, strict}} {
		err := writeSys(d.index, w[0], w[1])
		if errors.Is(err, fs.ErrNotExist) && limit == 0 {
			continue // a kernel that cannot bound it has not bounded it
		}
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return fail(fmt.Errorf("%w: it needs Linux 6.2: %w", volume.ErrPrecondition, err))
		case errors.Is(err, unix.EINVAL) && limit != 0:
			// More than all that can be dirty now is no bound.
			return d.SetDirtyLimit(0)
		case errors.Is(err, unix.EROFS) || errors.Is(err, os.ErrPermission):
			return fail(fmt.Errorf("%w: /sys must be writable; in a pod, mount the host's there (hostPath): %w", volume.ErrPrecondition, err))
		case err != nil:
			return fail(err)
		}
	}
	have, err := d.DirtyLimit()
	if err != nil {
		return fail(err)
	}
	// The memory that is free may have changed between writing and reading.
	if have > 2*limit || have == 0 && limit != 0 {
		return fail(fmt.Errorf("%w: the kernel accepted it and made it %s", volume.ErrPrecondition, have))
	}
	return nil
}

// DirtyLimit is the bound on the device's dirty memory as it stands now, 0 if
// there is none.
func (d *Device) DirtyLimit() (volume.Bytes, error) {
	strict, err := readSys(d.index, bdiStrict)
	if errors.Is(err, fs.ErrNotExist) || err == nil && strings.TrimSpace(strict) == "0" {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read the bound on dirty memory of %s: %w", d.path, err)
	}
	limit, err := readSysUint(d.index, bdiMaxBytes)
	if err != nil {
		return 0, fmt.Errorf("read the bound on dirty memory of %s: %w", d.path, err)
	}
	return volume.Bytes(limit), nil
}
