package loop

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// Info is what the kernel says about an attached loop device.
type Info struct {
	Index        int
	Major, Minor uint32
	// Tag is the text that was given to the device when it was attached
	// (lo_file_name); devices attached by others have a path there.
	Tag string
	// BackingDev and BackingInode identify the backing file as fstat(2) does:
	// they equal unix.Stat_t's Dev and Ino. On btrfs they are an identity only
	// for as long as the filesystem is mounted.
	BackingDev, BackingInode uint64
	// BackingPath is where the kernel believes the backing file to be, for
	// people to read. It may be wrong: the file may have been moved or deleted,
	// or have its path in another mount namespace.
	BackingPath string
	// Dead says that the filesystem of the backing file has shut itself down: the
	// kernel then tells neither the tag nor which file it is (loop_get_status asks
	// the filesystem, fs/xfs/xfs_iops.c refuses). Tag, BackingDev and BackingInode are
	// empty.
	Dead      bool
	ReadOnly  bool
	Autoclear bool
	DirectIO  bool
	// BlockSize is the logical block size in bytes.
	BlockSize int
	Size      volume.Bytes
}

// Info asks the kernel about the device. It is volume.ErrNotFound if the device
// is not attached any more.
func (d *Device) Info() (Info, error) {
	fail := func(err error) (Info, error) { return Info{}, fmt.Errorf("look at %s: %w", d.path, notAttached(err)) }
	status, dead, err := d.status()
	if err != nil {
		return fail(err)
	}
	blockSize, err := unix.IoctlGetInt(int(d.file.Fd()), unix.BLKSSZGET)
	if err != nil {
		return fail(err)
	}
	size, err := ioctlUint64(d.file, unix.BLKGETSIZE64)
	if err != nil {
		return fail(err)
	}
	readOnly, err := unix.IoctlGetInt(int(d.file.Fd()), unix.BLKROGET)
	if err != nil {
		return fail(err)
	}
	// The attribute goes away while the device is being detached, and with the
	// backing file's mount namespace it may be empty: it is only for people.
	backing, _ := readSys(d.index, "loop/backing_file")
	return Info{
		Index:        d.index,
		Major:        d.major,
		Minor:        d.minor,
		Tag:          tagOf(status),
		BackingDev:   status.Device, // huge_encode_dev is the encoding of st_dev
		BackingInode: status.Inode,
		BackingPath:  backing,
		Dead:         dead,
		ReadOnly:     readOnly != 0 || status.Flags&unix.LO_FLAGS_READ_ONLY != 0,
		Autoclear:    status.Flags&unix.LO_FLAGS_AUTOCLEAR != 0,
		DirectIO:     status.Flags&unix.LO_FLAGS_DIRECT_IO != 0,
		BlockSize:    blockSize,
		Size:         volume.Bytes(size),
	}, nil
}

// status is LOOP_GET_STATUS64; of a dead device it is what sysfs still shows.
func (d *Device) status() (status *unix.LoopInfo64, dead bool, err error) {
	status, err = unix.IoctlLoopGetStatus64(int(d.file.Fd()))
	if !errors.Is(err, unix.EIO) {
		return status, false, err
	}
	status = &unix.LoopInfo64{}
	for name, flag := range map[string]uint32{"loop/dio": unix.LO_FLAGS_DIRECT_IO, "loop/autoclear": unix.LO_FLAGS_AUTOCLEAR} {
		on, err := readSysUint(d.index, name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, false, unix.ENXIO // it was detached meanwhile
		}
		if err != nil {
			return nil, false, err
		}
		if on != 0 {
			status.Flags |= flag
		}
	}
	return status, true, nil
}

func tagOf(status *unix.LoopInfo64) string {
	name, _, _ := bytes.Cut(status.File_name[:], []byte{0})
	return string(name)
}

// List is every attached loop device of the machine, in order of index. It opens
// each for an instant, for reading; one that vanishes meanwhile is left out, and one
// that is there and cannot be opened is an error. A device that somebody lets go of
// in that instant goes when List has looked. One whose filesystem has failed is Dead,
// or left out if it cannot even be opened: it must not keep the others from being
// found.
func List() ([]Info, error) {
	return list(func(string) bool { return true })
}

// Find is every attached loop device with exactly this tag, in order of index. It
// looks as List does. A dead device has no tag: one that is looked for in vain may
// be among them.
func Find(tag string) ([]Info, error) {
	return list(func(have string) bool { return have == tag })
}

func list(wanted func(tag string) bool) ([]Info, error) {
	indices, err := attachedIndices()
	if err != nil {
		return nil, fmt.Errorf("list loop devices: %w", err)
	}
	var infos []Info
	for _, index := range indices {
		info, ok, err := look(index, wanted)
		if err != nil && !counts(index, err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list loop devices: %w", err)
		}
		if ok {
			infos = append(infos, info)
		}
	}
	return infos, nil
}

// counts says whether an error of looking at a device is one of the search: not if
// the device is gone.
func counts(index int, err error) bool {
	return !errors.Is(err, volume.ErrNotFound) && isAttached(index)
}

func look(index int, wanted func(tag string) bool) (info Info, ok bool, err error) {
	dev, err := open(index, unix.O_RDONLY)
	if err != nil {
		return Info{}, false, err
	}
	defer dev.Close()
	status, _, err := dev.status()
	if err != nil {
		return Info{}, false, fmt.Errorf("look at %s: %w", dev.path, notAttached(err))
	}
	if !wanted(tagOf(status)) {
		return Info{}, false, nil
	}
	info, err = dev.Info()
	return info, err == nil, err
}

// attachedIndices reads sysfs, where only an attached device has a directory
// "loop", so that devices nobody uses are never opened.
func attachedIndices() ([]int, error) {
	dir, err := os.Open(sysBlock)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	indices, err := loopIndices(dir)
	if err != nil {
		return nil, err
	}
	indices = slices.DeleteFunc(indices, func(i int) bool { return !isAttachedIn(dir, i) })
	slices.Sort(indices)
	return indices, nil
}

// sysBlock is what the links in /sys/block lead to, for devices that stand for no
// hardware: one step less for each of a thousand devices.
const sysBlock = "/sys/devices/virtual/block"

// loopIndices are all loop devices, attached or not. dir is sysBlock.
func loopIndices(dir *os.File) ([]int, error) {
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var indices []int
	for _, name := range names {
		digits, ok := strings.CutPrefix(name, "loop")
		if !ok {
			continue
		}
		if index, err := strconv.Atoi(digits); err == nil {
			indices = append(indices, index)
		}
	}
	return indices, nil
}

func isAttachedIn(dir *os.File, index int) bool {
	var st unix.Stat_t
	return unix.Fstatat(int(dir.Fd()), "loop"+strconv.Itoa(index)+"/loop", &st, unix.AT_SYMLINK_NOFOLLOW) == nil
}

func isAttached(index int) bool {
	_, err := os.Stat(sysPath(index, "loop"))
	return err == nil
}
