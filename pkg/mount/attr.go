package mount

import "golang.org/x/sys/unix"

// Attr is a set of properties of one mount, as opposed to the filesystem (man 2
// mount_setattr).
type Attr uint64

// The properties that a mount can have. Of the three that say when access times
// are written at most one can be set; none of them means relatime.
const (
	AttrReadOnly    Attr = unix.MOUNT_ATTR_RDONLY
	AttrNoSUID      Attr = unix.MOUNT_ATTR_NOSUID
	AttrNoDev       Attr = unix.MOUNT_ATTR_NODEV
	AttrNoExec      Attr = unix.MOUNT_ATTR_NOEXEC
	AttrNoAtime     Attr = unix.MOUNT_ATTR_NOATIME
	AttrStrictAtime Attr = unix.MOUNT_ATTR_STRICTATIME
	AttrNoDirAtime  Attr = unix.MOUNT_ATTR_NODIRATIME
)

// atime is the field, not a set of bits, that holds when access times are
// written.
const atime Attr = unix.MOUNT_ATTR__ATIME

// secure is set on every filesystem mount.
const secure = AttrNoSUID | AttrNoDev
