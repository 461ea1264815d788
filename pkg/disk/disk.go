// Package disk looks at whole block devices: which there are, who has them, what
// is written on them, and which one has a certain filesystem.
//
// It promises to change nothing on a device, and to go by what is written on it
// and by what the kernel says, never by its name: names are dealt out anew at
// each boot. It refuses to call a device blank that has anything it knows, or
// anything at all in its first and last MiB.
package disk

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// Device is a block device: a disk, a partition, or what the kernel makes of
// others, such as an md array.
type Device struct {
	// Name is the kernel's, such as "sdb"; Path is its node in /dev.
	Name, Path   string
	Major, Minor uint32
	Size         volume.Bytes
}

// Find is the block device of a node, to which path may be a symbolic link such
// as those in /dev/disk/by-id. It is volume.ErrInvalid if path is no block device
// and volume.ErrNotFound if there is nothing.
func Find(path string) (Device, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		if errors.Is(err, unix.ENOENT) {
			err = fmt.Errorf("%w: %w", volume.ErrNotFound, err)
		}
		return Device{}, fmt.Errorf("look at %s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return Device{}, fmt.Errorf("%w: %s is not a block device", volume.ErrInvalid, path)
	}
	major, minor := unix.Major(st.Rdev), unix.Minor(st.Rdev)
	link, err := os.Readlink(fmt.Sprintf("/sys/dev/block/%d:%d", major, minor))
	if err != nil {
		return Device{}, fmt.Errorf("%w: the kernel has no device behind %s: %w", volume.ErrNotFound, path, err)
	}
	name := filepath.Base(link)
	return device(name, major, minor)
}

// IsDevice reports whether path leads to a block device.
func IsDevice(path string) bool {
	var st unix.Stat_t
	return unix.Stat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK
}

// device is a Device by its name in sysfs. The kernel writes "/" as "!" there.
func device(name string, major, minor uint32) (Device, error) {
	sectors, err := os.ReadFile(filepath.Join("/sys/class/block", name, "size"))
	if err != nil {
		return Device{}, fmt.Errorf("read the size of %s: %w", name, err)
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(sectors)), 10, 64)
	if err != nil {
		return Device{}, fmt.Errorf("read the size of %s: %w", name, err)
	}
	const sector = 512 // what sysfs counts in, whatever the device's own is
	return Device{
		Name: name, Path: "/dev/" + strings.ReplaceAll(name, "!", "/"), Major: major, Minor: minor, Size: volume.Bytes(n) * sector,
	}, nil
}

// List is every block device that has a size. One that vanishes meanwhile is left
// out.
func List() ([]Device, error) {
	text, err := os.ReadFile("/proc/partitions")
	if err != nil {
		return nil, fmt.Errorf("list block devices: %w", err)
	}
	var out []Device
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		var major, minor uint32
		var blocks uint64
		var name string
		if n, _ := fmt.Sscan(lines.Text(), &major, &minor, &blocks, &name); n != 4 {
			continue // the head, and the empty line below it
		}
		d, err := device(strings.ReplaceAll(name, "/", "!"), major, minor)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if d.Size > 0 {
			out = append(out, d)
		}
	}
	return out, nil
}

// Open opens the device's node and checks that it is this device.
func (d Device) Open(flags int) (*os.File, error) {
	fd, err := unix.Open(d.Path, flags|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: d.Path, Err: err}
	}
	f := os.NewFile(uintptr(fd), d.Path)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, errors.Join(fmt.Errorf("stat %s: %w", d.Path, err), f.Close())
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK || st.Rdev != unix.Mkdev(d.Major, d.Minor) {
		return nil, errors.Join(fmt.Errorf("%w: the node %s is not block device %d:%d", volume.ErrPrecondition, d.Path, d.Major, d.Minor), f.Close())
	}
	return f, nil
}

// Claim opens a device for writing that nobody has: no mount, no swap, no RAID,
// no LVM, no partition that is in use. Nobody else can claim it until the file is
// closed. It is volume.ErrInUse with the users that can be seen, and
// volume.ErrPrecondition for a device that is read-only.
func (d Device) Claim() (*os.File, error) {
	f, err := d.Open(unix.O_RDWR | unix.O_EXCL)
	switch {
	case errors.Is(err, unix.EBUSY):
		return nil, fmt.Errorf("%w: %s is held by %s", volume.ErrInUse, d.Path, d.users())
	case errors.Is(err, unix.EROFS), errors.Is(err, unix.EACCES):
		return nil, fmt.Errorf("%w: %s is read-only: %w", volume.ErrPrecondition, d.Path, err)
	case err != nil:
		return nil, err
	}
	if ro, err := unix.IoctlGetInt(int(f.Fd()), unix.BLKROGET); err != nil || ro != 0 {
		return nil, errors.Join(fmt.Errorf("%w: %s is read-only", volume.ErrPrecondition, d.Path), err, f.Close())
	}
	return f, nil
}

// users says who has a device, for an error message: what cannot be read is left
// out.
func (d Device) users() string {
	var out []string
	mounts, _ := mount.List()
	for _, m := range mounts {
		if m.Source == d.Path || m.Major == d.Major && m.Minor == d.Minor {
			out = append(out, "a mount at "+m.Path)
		}
	}
	swaps, _ := os.ReadFile("/proc/swaps")
	for line := range strings.Lines(string(swaps)) {
		if fields := strings.Fields(line); len(fields) > 0 && fields[0] == d.Path {
			out = append(out, "swap (swapoff)")
		}
	}
	for _, h := range d.Holders() {
		out = append(out, "the device "+h+" that is made of it")
	}
	for _, p := range d.Partitions() {
		out = append(out, "its partition "+p+" perhaps")
	}
	if out == nil {
		return "something that cannot be seen from here, such as a mount in another namespace"
	}
	return strings.Join(out, ", ")
}

// Holders are the names of devices that are made of this one, such as an md array,
// an LVM volume or a multipath device.
func (d Device) Holders() []string {
	entries, _ := os.ReadDir(filepath.Join("/sys/class/block", d.Name, "holders"))
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

// Partitions are the names of the partitions that the kernel sees on the device.
func (d Device) Partitions() []string {
	found, _ := filepath.Glob(filepath.Join("/sys/class/block", d.Name, "*", "partition"))
	var out []string
	for _, p := range found {
		out = append(out, filepath.Base(filepath.Dir(p)))
	}
	return out
}

// SizeOf is the size of an open block device, as it is now.
func SizeOf(f *os.File) (volume.Bytes, error) {
	var n uint64
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.BLKGETSIZE64, uintptr(unsafe.Pointer(&n))); errno != 0 {
		return 0, fmt.Errorf("read the size of %s: %w", f.Name(), errno)
	}
	return volume.Bytes(n), nil
}
