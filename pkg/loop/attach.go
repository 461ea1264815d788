package loop

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// MaxTagLen is the longest tag in bytes: lo_file_name less its final NUL.
const MaxTagLen = 63

const attachAttempts = 100

// Config says what to attach and how.
type Config struct {
	// Backing is the file, or block device, to attach. It stays the caller's and
	// may be closed afterwards. It must be open for writing unless ReadOnly.
	Backing *os.File
	// Tag names the device so that Find finds it, at most MaxTagLen bytes and not
	// empty.
	Tag string
	// BlockSize is the logical block size in bytes: 512 or 4096.
	BlockSize int
	// DirectIO bypasses the page cache of the filesystem that holds Backing.
	DirectIO bool
	ReadOnly bool
	// NoDiscard makes the device refuse discards, so that nothing can punch holes
	// into Backing.
	NoDiscard bool
}

func (c Config) validate() error {
	switch {
	case c.Backing == nil:
		return fmt.Errorf("%w: no backing file", volume.ErrInvalid)
	case c.Tag == "" || len(c.Tag) > MaxTagLen || strings.ContainsRune(c.Tag, 0):
		return fmt.Errorf("%w: loop device tag %q: want 1 to %d bytes without NUL", volume.ErrInvalid, c.Tag, MaxTagLen)
	case c.BlockSize != 512 && c.BlockSize != 4096:
		return fmt.Errorf("%w: loop device block size %d: want 512 or 4096", volume.ErrInvalid, c.BlockSize)
	}
	return nil
}

// Attach attaches a file to a free loop device, which is made if there is none,
// and holds it open. Autoclear is set: the device goes with its last user, so
// the caller keeps the Device open until the filesystem is mounted, or says
// SetAutoclear(false).
//
// The kernel's answer is read back. If the device is not exactly what was asked
// for (direct I/O dropped, another block size, a read-only flag left over) it is
// detached, and the error is volume.ErrPrecondition. A file whose size is not a
// multiple of the block size is volume.ErrInvalid, as the kernel would hide its
// end. It is volume.ErrBusy if others kept taking the free device, or took the new
// one away: the same call may succeed. Attaching one file twice works; that it does
// not happen is the caller's business.
func Attach(ctx context.Context, c Config) (*Device, error) {
	if err := c.validate(); err != nil {
		return nil, fmt.Errorf("attach a loop device: %w", err)
	}
	fail := func(err error) (*Device, error) {
		if errors.Is(err, volume.ErrNotFound) {
			err = busy("it was taken away again", err)
		}
		return nil, fmt.Errorf("attach %s to a loop device: %w", c.Backing.Name(), err)
	}
	size, err := backingSize(c.Backing)
	if err != nil {
		return fail(err)
	}
	if size%volume.Bytes(c.BlockSize) != 0 {
		return fail(fmt.Errorf("%w: its size of %d bytes is not a multiple of the block size %d", volume.ErrInvalid, size, c.BlockSize))
	}
	dev, err := configureFree(ctx, c)
	if err != nil {
		return fail(err)
	}
	if err := dev.settle(c, size); err != nil {
		return fail(errors.Join(err, dev.Detach()))
	}
	// From here on the device is held for reading only; see Device.File.
	held, err := open(dev.index, unix.O_RDONLY)
	if err != nil {
		return fail(errors.Join(err, dev.Detach()))
	}
	if err := dev.Close(); err != nil {
		return fail(errors.Join(err, held.Detach()))
	}
	return held, nil
}

// configureFree attaches c to whichever index is free. Another process may take
// the index between the question and the attachment: then it asks again.
func configureFree(ctx context.Context, c Config) (*Device, error) {
	control, err := openControl()
	if err != nil {
		return nil, err
	}
	defer control.Close()
	return persist(ctx, func() (*Device, error) { return configureOnce(control, c) })
}

// persist repeats an attempt that others disturb.
func persist(ctx context.Context, attempt func() (*Device, error)) (*Device, error) {
	for n := 1; ; n++ {
		dev, err := attempt()
		if err == nil || !disturbed(err) {
			return dev, err
		}
		if n > attachAttempts {
			return nil, busy("others kept taking the free device", err)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w, while others kept taking the free device: %s", ctx.Err(), err.Error())
		case <-time.After(jitter(time.Duration(min(n, 20)) * time.Millisecond)):
		}
	}
}

// busy has the text of its cause and not its sentinel: for the caller it is the
// file that would not be found, not a device that it never asked for.
func busy(what string, cause error) error {
	return fmt.Errorf("%w: %s: %s", volume.ErrBusy, what, cause.Error())
}

// disturbed reports whether another attempt may succeed, because somebody else was
// faster (EBUSY from the index race, EAGAIN from udev, a device that was removed
// again before it was opened), or because the device had to be made anew.
func disturbed(err error) bool {
	return errors.Is(err, errStuck) || errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) || errors.Is(err, volume.ErrNotFound)
}

func configureOnce(control *os.File, c Config) (*Device, error) {
	index, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return nil, fmt.Errorf("ask for a free loop device: %w", err)
	}
	flags := unix.O_RDWR
	if c.ReadOnly {
		flags = unix.O_RDONLY
	}
	dev, err := open(index, flags)
	if err != nil {
		return nil, err
	}
	config := unix.LoopConfig{Fd: uint32(c.Backing.Fd()), Size: uint32(c.BlockSize)}
	copy(config.Info.File_name[:], c.Tag)
	config.Info.Flags = unix.LO_FLAGS_AUTOCLEAR
	if c.ReadOnly {
		config.Info.Flags |= unix.LO_FLAGS_READ_ONLY
	}
	if c.DirectIO {
		config.Info.Flags |= unix.LO_FLAGS_DIRECT_IO
	}
	if err := unix.IoctlLoopConfigure(int(dev.file.Fd()), &config); err != nil {
		dev.Close()
		return nil, fmt.Errorf("configure %s: %w", dev.path, err)
	}
	if c.NoDiscard {
		return dev, nil
	}
	stuck, err := hasNoDiscard(index)
	if err == nil && !stuck {
		return dev, nil
	}
	if err := errors.Join(err, dev.Detach(), renew(control, index)); err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("%w: %s does not discard because of an earlier user, and somebody else holds it", errStuck, dev.path)
}

// errStuck is a device with a setting of an earlier user that only a new device
// gets rid of.
var errStuck = errors.New("stuck setting")

// settle removes what earlier users of the index left behind (the kernel keeps
// queue settings across attachments), then reads everything back.
func (d *Device) settle(c Config, size volume.Bytes) error {
	if !c.ReadOnly {
		if err := d.clearReadOnly(); err != nil {
			return err
		}
	}
	if c.NoDiscard {
		if err := d.SetNoDiscard(); err != nil {
			return err
		}
	}
	info, err := d.Info()
	if err != nil {
		return err
	}
	differs := func(what string, have, want any) error {
		return fmt.Errorf("%w: %s got %s %v instead of %v", volume.ErrPrecondition, d.path, what, have, want)
	}
	switch {
	case info.DirectIO != c.DirectIO:
		return fmt.Errorf("%w; the filesystem of the backing file does not support direct I/O with %d-byte blocks (on btrfs the file must be NOCOW)",
			differs("direct I/O", info.DirectIO, c.DirectIO), c.BlockSize)
	case info.BlockSize != c.BlockSize:
		return differs("block size", info.BlockSize, c.BlockSize)
	case info.ReadOnly != c.ReadOnly:
		return fmt.Errorf("%w; the backing file must be open for writing", differs("read-only", info.ReadOnly, c.ReadOnly))
	case !info.Autoclear:
		return differs("autoclear", false, true)
	case info.Tag != c.Tag:
		return differs("tag", info.Tag, c.Tag)
	case info.Size != size:
		return differs("size", info.Size, size)
	}
	return nil
}

// clearReadOnly undoes a BLKROSET of an earlier user, which sticks to the index.
func (d *Device) clearReadOnly() error {
	status, err := unix.IoctlLoopGetStatus64(int(d.file.Fd()))
	if err != nil || status.Flags&unix.LO_FLAGS_READ_ONLY != 0 {
		return err
	}
	if ro, err := unix.IoctlGetInt(int(d.file.Fd()), unix.BLKROGET); err != nil || ro == 0 {
		return err
	}
	if err := unix.IoctlSetPointerInt(int(d.file.Fd()), unix.BLKROSET, 0); err != nil {
		return fmt.Errorf("make %s writable: %w", d.path, err)
	}
	return nil
}

func backingSize(f *os.File) (volume.Bytes, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return 0, err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return volume.Bytes(st.Size), nil
	case unix.S_IFBLK:
		size, err := ioctlUint64(f, unix.BLKGETSIZE64)
		return volume.Bytes(size), err
	}
	return 0, fmt.Errorf("%w: it is neither a file nor a block device", volume.ErrInvalid)
}
