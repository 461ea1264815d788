package filesystem

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/command"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// maxXFSGrowth is how many times its birth size an XFS should grow at most.
const maxXFSGrowth = 8

// XfsGrownTooFar reports whether an XFS of this size suffers from its growth: it
// keeps the size of the allocation groups, and of the log, that it was born with,
// so it has ever more groups and a log that is ever smaller for it.
func XfsGrownTooFar(birth, size volume.Bytes) bool {
	return birth > 0 && size/maxXFSGrowth > birth
}

// CanGrowOnline reports whether this process can grow a mounted filesystem of this
// type: ext4 demands CAP_SYS_RESOURCE (fs/ext4/resize.c, ext4_resize_begin).
func CanGrowOnline(t volume.FSType) bool {
	if t != volume.Ext4 {
		return true
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false
	}
	return data[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0
}

// GrowOffline makes the ext4 filesystem on an unmounted block device as large as
// the device; an image file, resize2fs might cut. One that is as large already is left alone, at the price of one look.
// XFS is grown when it is mounted.
//
// When ctx ends first, GrowOffline returns volume.ErrUnavailable and the program
// that is running goes on; the same call made later waits for it, and then does
// what is left.
func GrowOffline(ctx context.Context, runner command.Runner, dev string) error {
	fail := func(err error) error { return fmt.Errorf("grow the ext4 filesystem on %s: %w", dev, err) }
	have, room, err := sizes(dev)
	if err != nil {
		return fail(err)
	}
	grow := func(args ...string) error {
		_, err := workOn(ctx, runner, dev, append([]string{"resize2fs", "--", dev}, args...)...)
		if err == nil || exitStatus(err) < 0 {
			return err
		}
		// resize2fs insists on a full check of a filesystem that was mounted since the
		// last one. Its cost grows with the filesystem, so it is run only then.
		if err := e2fsck(ctx, runner, dev, "-f"); err != nil {
			return err
		}
		_, err = workOn(ctx, runner, dev, append([]string{"resize2fs", "--", dev}, args...)...)
		return err
	}
	if have < room/maxExt4Step {
		// This waits for an abandoned run, if there is one: a step from what the size
		// was before it could be one back.
		if err := e2fsck(ctx, runner, dev); err != nil {
			return err
		}
		if have, room, err = sizes(dev); err != nil {
			return fail(err)
		}
	}
	for ; have < room/maxExt4Step; have *= maxExt4Step {
		if err := grow(fmt.Sprintf("%ds", have*maxExt4Step/sectorUnit)); err != nil {
			return fail(err)
		}
	}
	if err := grow(); err != nil {
		return fail(err)
	}
	return nil
}

// maxExt4Step is how many times its size a filesystem may become in one run of
// resize2fs: of e2fsprogs 1.47.0, one that is made more than 1024 times as large
// (measured: 16 MiB to 24 GiB) comes out with its root directory destroyed. In
// several runs it gets as far, and is sound.
const maxExt4Step = 256

// sectorUnit is what resize2fs means by the suffix s of a size, in bytes.
const sectorUnit = 512

// sizes are that of the filesystem on an unmounted device, and the device's.
func sizes(dev string) (have, room volume.Bytes, err error) {
	f, err := os.Open(dev)
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	sb, err := ProbeInUse(f) // an abandoned run may be writing it
	if err != nil {
		return 0, 0, err
	}
	end, err := f.Seek(0, io.SeekEnd)
	return sb.Size, volume.Bytes(end), err
}

// GrowOnline makes a mounted filesystem, of which root is any open directory, at
// least as large as its device can hold of to. The device must have that size
// already. One that is large enough is left alone, so it can be repeated; the
// kernel may leave a few last blocks unused that make no allocation group.
//
// It is volume.ErrPrecondition if the kernel refuses until somebody acts: ext4
// without CAP_SYS_RESOURCE (the volume then grows at the next stage), a read-only
// mount, or errors in the filesystem; volume.ErrBusy if it is being grown just
// now.
func GrowOnline(root *os.File, t volume.FSType, to volume.Bytes) error {
	fail := func(err error) error { return fmt.Errorf("grow the mounted %s filesystem to %s: %w", t, to, err) }
	switch t {
	case volume.Ext4:
		sb, err := ext4Superblock(root)
		if err != nil {
			return fail(err)
		}
		if sb.Size >= to || (sb.Fills(to) && !CanGrowOnline(t)) {
			return nil
		}
		if err := growExt4(root, uint64(to)/uint64(sb.BlockSize)); err != nil {
			return fail(err)
		}
	case volume.XFS:
		geometry, err := xfsGeometry(root)
		if err != nil {
			return fail(err)
		}
		// A smaller number would shrink the filesystem.
		if blocks := uint64(to) / uint64(geometry.BlockSize); geometry.DataBlocks < blocks {
			if err := growXFS(root, blocks, geometry.IMaxPct); err != nil {
				return fail(err)
			}
		}
	default:
		return fail(fmt.Errorf("%w: supported are %s and %s", volume.ErrInvalid, volume.Ext4, volume.XFS))
	}
	return nil
}

func growExt4(root *os.File, blocks uint64) error {
	const ext4IocResizeFS = 0x40086610 // _IOW('f', 16, __u64)
	err := ioctl(root, ext4IocResizeFS, unsafe.Pointer(&blocks))
	switch {
	case errors.Is(err, unix.EPERM) && !CanGrowOnline(volume.Ext4):
		return fmt.Errorf("%w: the kernel grows a mounted ext4 only for a process with CAP_SYS_RESOURCE, which this one has not: "+
			"give the driver's container that capability, or restart the pod: the volume grows when it is staged again: %w", volume.ErrPrecondition, err)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w: the filesystem has errors: restart the pod, so that it is checked and grown when it is staged again: %w", volume.ErrPrecondition, err)
	}
	return growthError(err)
}

func growXFS(root *os.File, blocks uint64, imaxpct uint32) error {
	const xfsIocGrowFSData = 0x4010586e // _IOW('X', 110, struct xfs_growfs_data)
	request := struct {
		newblocks uint64
		imaxpct   uint32
		_         uint32
	}{newblocks: blocks, imaxpct: imaxpct}
	return growthError(ioctl(root, xfsIocGrowFSData, unsafe.Pointer(&request)))
}

func growthError(err error) error {
	switch {
	case errors.Is(err, unix.EROFS):
		return fmt.Errorf("%w: it is mounted read-only: it grows when it is staged for writing: %w", volume.ErrPrecondition, err)
	case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EAGAIN):
		return fmt.Errorf("%w: it is being grown just now: %w", volume.ErrBusy, err)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w: the driver needs CAP_SYS_ADMIN: %w", volume.ErrPrecondition, err)
	}
	return err
}
