package tree

import (
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// attribute is an extended attribute.
type attribute struct {
	name  string
	value []byte
}

// leftOut says whether an attribute is not carried, and what is noted then, if
// anything. What the kernel makes up from elsewhere (system.*) and what belongs to one
// filesystem means nothing on another.
func leftOut(name string) (why noteKind, left bool) {
	const acl = "system.posix_acl_" // access and default
	switch {
	case strings.HasPrefix(name, acl):
		return "", false
	case strings.HasPrefix(name, "trusted.SGI_ACL_"):
		return "", true // xfs shows the same lists once more
	case name == "security.selinux":
		return noteSELinux, true
	case strings.HasPrefix(name, "system."), strings.HasPrefix(name, "btrfs."):
		return noteForeign, true
	}
	return "", false
}

// pathIn names an entry to calls that take no directory. Only a symbolic link at its
// end is possible, and they do not follow it.
func pathIn(dir *os.File, name string) string {
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), name)
}

// attributeNames are the names of all extended attributes of what is called name in
// dir. A filesystem without any has none.
func attributeNames(dir *os.File, name string) ([]string, error) {
	path := pathIn(dir, name)
	list, err := read(func(buf []byte) (int, error) { return unix.Llistxattr(path, buf) })
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list extended attributes: %w", gone(err))
	}
	return strings.FieldsFunc(string(list), func(r rune) bool { return r == 0 }), nil
}

// attributes are the extended attributes of what is called name in dir, in the order
// of their names, without those that are left out.
func attributes(dir *os.File, name string) ([]attribute, error) {
	names, err := attributeNames(dir, name)
	if err != nil {
		return nil, err
	}
	path := pathIn(dir, name)
	var out []attribute
	for _, name := range names {
		if _, skip := leftOut(name); skip {
			continue
		}
		value, err := read(func(buf []byte) (int, error) { return unix.Lgetxattr(path, name, buf) })
		if err != nil {
			return nil, fmt.Errorf("read the extended attribute %s: %w", name, gone(err))
		}
		out = append(out, attribute{name, value})
	}
	slices.SortFunc(out, func(a, b attribute) int { return strings.Compare(a.name, b.name) })
	return out, nil
}

// read calls what fills a buffer, or says with an empty one how large it must be.
func read(call func([]byte) (int, error)) ([]byte, error) {
	for {
		n, err := call(nil)
		if err != nil || n == 0 {
			return nil, err
		}
		buf := make([]byte, n)
		n, err = call(buf)
		if errors.Is(err, unix.ERANGE) {
			continue // it has grown
		}
		if err != nil {
			return nil, err
		}
		return buf[:n], nil
	}
}

func setAttributes(dir *os.File, name string, all []attribute) error {
	for _, a := range all {
		err := unix.Lsetxattr(pathIn(dir, name), a.name, a.value, 0)
		switch {
		case errors.Is(err, unix.E2BIG), errors.Is(err, unix.ERANGE), errors.Is(err, unix.ENOSPC) && sizeOf(all) > surelyFits:
			// The cause is not kept: this is no lack of room.
			return fmt.Errorf("%w: its extended attributes have %d bytes, more than the filesystem of the copy takes (ext4: 4 KiB for all of a file, xfs: 64 KiB for each): import it with --fs-type=xfs: %v", volume.ErrOutOfRange, sizeOf(all), err)
		case err != nil:
			return fmt.Errorf("set the extended attribute %s: %w", a.name, err)
		}
	}
	return nil
}

// surelyFits is how many bytes of attributes any file can have (ext4 keeps all of
// them in one block, with 4 KiB in the volumes that the driver makes).
const surelyFits = 3 << 10

// sizeOf is about what attributes take.
func sizeOf(all []attribute) (size int) {
	const header = 16 // struct ext4_xattr_entry
	for _, a := range all {
		size += header + len(a.name) + len(a.value)
	}
	return size
}

// carry gives the copy of an entry what it has beside its content. Times come last:
// all else changes them.
func carry(e entry, from *os.File, fromName string, in *os.File, name string) error {
	fd := int(in.Fd())
	if err := unix.Fchownat(fd, name, int(e.stat.Uid), int(e.stat.Gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set its owner: %w", err)
	}
	all, err := attributes(from, fromName)
	if err != nil {
		return err
	}
	if err := setAttributes(in, name, all); err != nil {
		return err
	}
	if e.kind() != unix.S_IFLNK {
		if err := unix.Fchmodat(fd, name, e.stat.Mode&^unix.S_IFMT, 0); err != nil {
			return fmt.Errorf("set its mode: %w", err)
		}
	}
	times := []unix.Timespec{e.stat.Atim, e.stat.Mtim}
	if err := unix.UtimesNanoAt(fd, name, times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set its times: %w", err)
	}
	return checkTime(e, in, name)
}

// checkTime refuses a time that the filesystem of the copy moves into what it can
// keep. Only one that is far from now is looked at.
func checkTime(e entry, in *os.File, name string) error {
	if e.stat.Mtim.Sec >= 0 && e.stat.Mtim.Sec <= math.MaxInt32 {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstatat(int(in.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("stat the copy: %w", err)
	}
	if st.Mtim != e.stat.Mtim {
		return fmt.Errorf("%w: the filesystem of the copy cannot keep its time of modification, %s: give it another one (touch)", volume.ErrPrecondition, time.Unix(e.stat.Mtim.Unix()).UTC().Format(time.RFC3339))
	}
	return nil
}
