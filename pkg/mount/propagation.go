package mount

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Containing is the mount that a path is on, as this mount namespace shows it:
// the top one, and the path may be anywhere below its Path. Symbolic links are
// followed. What does not exist is fs.ErrNotExist.
func Containing(path string) (Info, error) {
	fail := func(err error) (Info, error) {
		return Info{}, fmt.Errorf("find the mount that has %s: %w", path, err)
	}
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return fail(&os.PathError{Op: "open", Path: path, Err: err})
	}
	file := os.NewFile(uintptr(fd), path)
	defer file.Close()
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_MNT_ID, &st); err != nil {
		return fail(fmt.Errorf("statx: %w", err))
	}
	mounts, err := List()
	if err != nil {
		return fail(err)
	}
	for _, m := range mounts {
		if uint64(m.ID) == st.Mnt_id {
			return m, nil
		}
	}
	return fail(fmt.Errorf("no mount has the id %d", st.Mnt_id))
}

// Propagation says, in the words of mount(8), what becomes of mounts that are made
// below this one: "shared" means that they appear in the other mounts of its peer
// group too, and the other way round (kernel,
// Documentation/filesystems/sharedsubtree.rst).
//
// Which other mounts are in the peer group, and whether the host is among them,
// the kernel does not show to a process in a container: it may neither look at
// another mount namespace nor walk over them (NS_MNT_GET_PREV is EPERM there,
// measured on 6.18).
func (i Info) Propagation() string {
	switch {
	case i.PeerGroup != 0:
		return "shared"
	case i.Master != 0:
		return "slave"
	}
	return "private"
}
