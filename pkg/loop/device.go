package loop

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// Device is an attached loop device that is held open. With autoclear (as Attach
// leaves it) the kernel detaches the device when the last user, a mount
// included, lets go of it.
type Device struct {
	index        int
	major, minor uint32
	path         string
	file         *os.File

	close    sync.Once
	closeErr error
}

// Open finds and holds the attached device of this index. It is
// volume.ErrNotFound if the device is not attached.
func Open(index int) (*Device, error) {
	dev, err := open(index, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	if _, err := dev.Info(); err != nil {
		dev.Close()
		return nil, err
	}
	return dev, nil
}

// Open holds the device that i describes. It is volume.ErrNotFound if that one was
// detached since, also if something else has the index by now: between Find and
// the opening of an index by its number alone, it may have changed hands.
func (i Info) Open() (*Device, error) {
	dev, err := Open(i.Index)
	if err != nil {
		return nil, err
	}
	now, err := dev.Info()
	if err == nil && (now.Tag != i.Tag || now.BackingDev != i.BackingDev || now.BackingInode != i.BackingInode) {
		err = fmt.Errorf("open %s: %w: it was detached, and attached to something else", dev.path, volume.ErrNotFound)
	}
	if err != nil {
		dev.Close()
		return nil, err
	}
	return dev, nil
}

// Index is N of /dev/loopN.
func (d *Device) Index() int { return d.index }

// Path is /dev/loopN.
func (d *Device) Path() string { return d.path }

// File is the open device, which the Device owns. It is open for reading only,
// so that it does not stand in the way of a mount on a kernel that lets nobody
// else write to a mounted device (CONFIG_BLK_DEV_WRITE_MOUNTED=n).
func (d *Device) File() *os.File { return d.file }

// SetAutoclear says whether the device goes with its last user (on) or stays
// until Detach (off), and reads back what the kernel made of it. It is
// volume.ErrNotFound if the device is not attached any more, and
// volume.ErrPrecondition if the kernel did not do it.
func (d *Device) SetAutoclear(on bool) error {
	fail := func(err error) error {
		return fmt.Errorf("set autoclear of %s to %t: %w", d.path, on, err)
	}
	status, err := unix.IoctlLoopGetStatus64(int(d.file.Fd()))
	if err != nil {
		return fail(notAttached(err))
	}
	if status.Flags&unix.LO_FLAGS_AUTOCLEAR != 0 == on {
		return nil
	}
	status.Flags ^= unix.LO_FLAGS_AUTOCLEAR
	if err := retryBusy(func() error { return unix.IoctlLoopSetStatus64(int(d.file.Fd()), status) }); err != nil {
		return fail(notAttached(err))
	}
	if status, err = unix.IoctlLoopGetStatus64(int(d.file.Fd())); err != nil {
		return fail(notAttached(err))
	}
	if status.Flags&unix.LO_FLAGS_AUTOCLEAR != 0 != on {
		return fail(fmt.Errorf("%w: the kernel accepted it and did not do it", volume.ErrPrecondition))
	}
	return nil
}

// Refresh gives the device the size of its backing file, which the kernel does
// not notice by itself (LOOP_SET_CAPACITY). It is volume.ErrNotFound if the
// device is not attached any more.
func (d *Device) Refresh() error {
	err := retryBusy(func() error { return unix.IoctlSetInt(int(d.file.Fd()), unix.LOOP_SET_CAPACITY, 0) })
	if err != nil {
		return fmt.Errorf("refresh the size of %s: %w", d.path, notAttached(err))
	}
	return nil
}

// Size is the size of the device.
func (d *Device) Size() (volume.Bytes, error) {
	size, err := ioctlUint64(d.file, unix.BLKGETSIZE64)
	if err != nil {
		return 0, fmt.Errorf("read the size of %s: %w", d.path, err)
	}
	return volume.Bytes(size), nil
}

// Sync writes what was written to the device, and is still in memory, through to
// the disk below the backing file.
func (d *Device) Sync() error {
	if err := d.file.Sync(); err != nil {
		return fmt.Errorf("write out %s: %w", d.path, err)
	}
	return nil
}

// Detach lets the device go (LOOP_CLR_FD) and closes d. If somebody else has it
// open, a mount included, Detach succeeds and the device goes when they close it;
// Detach waits a moment for those who, like List, only look. A device that is not
// attached any more is success.
func (d *Device) Detach() error {
	noDiscard, _ := hasNoDiscard(d.index)
	sequence, _ := readSys(d.index, "diskseq")
	err := retryBusy(func() error { return unix.IoctlSetInt(int(d.file.Fd()), unix.LOOP_CLR_FD, 0) })
	closeErr := d.Close()
	if err != nil && !errors.Is(err, unix.ENXIO) {
		return fmt.Errorf("detach %s: %w", d.path, err)
	}
	awaitGone(d.index, sequence)
	if noDiscard {
		forget(d.index)
	}
	return closeErr
}

// awaitGone waits until an attachment, known by its disk sequence number, is gone,
// but not for long: a mount in another namespace may hold it for ever.
func awaitGone(index int, sequence string) {
	const patience = 100 * time.Millisecond
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if !isAttached(index) {
			return
		}
		if now, err := readSys(index, "diskseq"); err != nil || now != sequence {
			return
		}
	}
}

// Close lets go of the device without detaching it; with autoclear that detaches
// it if nobody else uses it. Closing twice is harmless.
func (d *Device) Close() error {
	d.close.Do(func() { d.closeErr = d.file.Close() })
	return d.closeErr
}

func notAttached(err error) error {
	if errors.Is(err, unix.ENXIO) {
		return fmt.Errorf("%w: the loop device is not attached: %w", volume.ErrNotFound, err)
	}
	return err
}
