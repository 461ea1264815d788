package loop

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func devicePath(index int) string { return "/dev/loop" + strconv.Itoa(index) }

func sysPath(index int, attribute string) string {
	return "/sys/block/loop" + strconv.Itoa(index) + "/" + attribute
}

func readSys(index int, attribute string) (string, error) {
	b, err := os.ReadFile(sysPath(index, attribute))
	if err != nil {
		return "", err
	}
	return strings.TrimSuffix(string(b), "\n"), nil
}

// writeSys writes an attribute that is there; it creates no file.
func writeSys(index int, attribute, value string) error {
	f, err := os.OpenFile(sysPath(index, attribute), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

func readSysUint(index int, attribute string) (uint64, error) {
	s, err := readSys(index, attribute)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", sysPath(index, attribute), err)
	}
	return n, nil
}

// deviceNumber is major and minor as the kernel says: with the module parameter
// max_part the minor is not the index.
func deviceNumber(index int) (major, minor uint32, err error) {
	s, err := readSys(index, "dev")
	if err != nil {
		return 0, 0, err
	}
	if _, err := fmt.Sscanf(s, "%d:%d", &major, &minor); err != nil {
		return 0, 0, fmt.Errorf("%s says %q: %w", sysPath(index, "dev"), s, err)
	}
	return major, minor, nil
}

// open opens /dev/loopN, making the node if there is none: a container's /dev has
// the nodes that existed when the container started.
func open(index, flags int) (*Device, error) {
	path := devicePath(index)
	fail := func(err error) (*Device, error) { return nil, fmt.Errorf("open %s: %w", path, err) }
	major, minor, err := deviceNumber(index)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			err = fmt.Errorf("%w: no loop device has this index: %w", volume.ErrNotFound, err)
		}
		return fail(err)
	}
	want := unix.Mkdev(major, minor)
	fd, err := openNode(path, flags)
	if errors.Is(err, unix.ENOENT) {
		if err := unix.Mknod(path, unix.S_IFBLK|0o600, int(want)); err != nil && !errors.Is(err, unix.EEXIST) {
			return fail(fmt.Errorf("make the device node: %w", err))
		}
		fd, err = openNode(path, flags)
	}
	wrong := fmt.Errorf("%w: the node is not block device %d:%d; remove it, it is made anew", volume.ErrPrecondition, major, minor)
	var st unix.Stat_t
	if errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENODEV) {
		if unix.Lstat(path, &st) == nil && !isBlock(st, want) {
			return fail(wrong) // what is gone is another device
		}
		return fail(fmt.Errorf("%w: the loop device is gone: %w", volume.ErrNotFound, err))
	}
	if err != nil {
		return fail(err)
	}
	file := os.NewFile(uintptr(fd), path)
	if err := unix.Fstat(fd, &st); err != nil {
		file.Close()
		return fail(err)
	}
	if !isBlock(st, want) {
		file.Close()
		return fail(wrong)
	}
	return &Device{index: index, major: major, minor: minor, path: path, file: file}, nil
}

func isBlock(st unix.Stat_t, device uint64) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFBLK && st.Rdev == device
}

func openNode(path string, flags int) (int, error) {
	for {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
		if !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}
