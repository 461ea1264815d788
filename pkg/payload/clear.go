package payload

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// What Wipe and Empty touch at most. A set and the one before it are far below; beyond
// is what somebody put there who got to write to the directory.
const (
	maxEntries = 4096
	maxDepth   = 320
	maxWiped   = 64 << 20 // bytes
	chunk      = 64 << 10 // bytes
)

// errTooMuch says that something was left because there is more of it than a set has.
var errTooMuch = fmt.Errorf("there are more than %d entries, %d levels or %d bytes", maxEntries, maxDepth, maxWiped)

// Wipe overwrites every file with zeros and removes everything. Who still has a file
// open sees the zeros.
//
// Whatever is in the directory, Wipe ends soon: it waits for nobody, and touches no
// more than a bounded number of entries and bytes. What it could not wipe is in the
// error, and does not keep it from the rest.
func (d Dir) Wipe() error {
	c := &clearing{overwrite: true, remove: true, entries: maxEntries, bytes: maxWiped}
	return c.all(d.fd(), 0)
}

// Empty overwrites every file with zeros and makes it an empty one that everybody may
// read, where it is. So it needs no space, and who still has a file open sees nothing
// in it. Readers may see some files empty before others. It is bounded as Wipe is.
func (d Dir) Empty() error {
	c := &clearing{overwrite: true, truncate: true, entries: maxEntries, bytes: maxWiped}
	return c.all(d.fd(), 0)
}

// remove removes whatever has a name, with what is in it. What is not there is success.
func (d Dir) remove(name string) error {
	err := unix.Unlinkat(d.fd(), name, 0)
	switch {
	case err == nil, errors.Is(err, unix.ENOENT):
		return nil
	case errors.Is(err, unix.EISDIR), errors.Is(err, unix.EPERM):
		c := &clearing{remove: true, entries: maxEntries}
		return c.one(d.fd(), name, 0)
	}
	return fmt.Errorf("remove %s: %w", name, err)
}

// clearing is one walk over what is to go.
//
// It needs CAP_CHOWN and no right beyond that: what belongs to somebody else is made
// root's first. It opens nothing but directories and regular files, by a descriptor
// that has shown it to be one, so that no FIFO and no device is ever opened.
type clearing struct {
	overwrite, truncate, remove bool

	entries int   // how many may still be touched
	bytes   int64 // how many may still be overwritten
}

// all clears what is in a directory, and goes on after an error.
func (c *clearing) all(dir, depth int) error {
	if depth > maxDepth {
		return errTooMuch
	}
	names, err := namesIn(dir, ".", c.entries+1)
	if err != nil {
		return err
	}
	var first error
	failed := 0
	if len(names) > c.entries {
		names, first, failed = names[:c.entries], errTooMuch, 1
	}
	c.entries -= len(names)
	for _, name := range names {
		if err := c.one(dir, name, depth); err != nil {
			if failed++; first == nil {
				first = err
			}
		}
	}
	if failed > 1 {
		return fmt.Errorf("%w (and %d more)", first, failed-1)
	}
	return first
}

// one clears what has a name in a directory. What is not there is success.
func (c *clearing) one(dir int, name string, depth int) error {
	fail := func(doing string, err error) error { return fmt.Errorf("%s %s: %w", doing, name, err) }
	fd, err := openBeneath(dir, name, unix.O_PATH)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fail("open", err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fail("look at", err)
	}
	flags := 0
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		flags = unix.AT_REMOVEDIR
		err = c.directory(fd, &st, depth)
	case unix.S_IFREG:
		if !c.overwrite {
			break
		}
		if err = c.file(fd, &st); err != nil {
			err = fail("overwrite", err)
		}
	}
	if !c.remove {
		return err
	}
	if gone := unix.Unlinkat(dir, name, flags); gone != nil && !errors.Is(gone, unix.ENOENT) && err == nil {
		err = fail("remove", gone)
	}
	return err
}

func (c *clearing) directory(fd int, st *unix.Stat_t, depth int) error {
	if st.Uid != 0 || st.Mode&0o700 != 0o700 {
		if err := own(fd, st, 0o700); err != nil {
			return fmt.Errorf("look into a directory: %w", err)
		}
	}
	dir, err := reopen(fd, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	return c.all(dir, depth+1)
}

// file overwrites what a file has stored, which may be far less than its size.
func (c *clearing) file(path int, st *unix.Stat_t) error {
	// Its owner may not write to it, and this process need not be above such things.
	if err := own(path, st, 0o600); err != nil {
		return err
	}
	fd, err := reopen(path, unix.O_WRONLY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	err = c.zero(fd)
	if err != nil || c.truncate {
		err = errors.Join(err, unix.Ftruncate(fd, 0))
	}
	if c.truncate {
		err = errors.Join(err, unix.Fchmod(fd, 0o444))
	}
	return err
}

func (c *clearing) zero(fd int) error {
	zeros := make([]byte, chunk)
	for at := int64(0); ; {
		begin, err := unix.Seek(fd, at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // nothing more is stored
		}
		if err != nil {
			return fmt.Errorf("find what is stored: %w", err)
		}
		end, err := unix.Seek(fd, begin, unix.SEEK_HOLE)
		if err != nil {
			return fmt.Errorf("find what is stored: %w", err)
		}
		for at = begin; at < end; {
			if c.bytes <= 0 {
				return errTooMuch
			}
			n, err := unix.Pwrite(fd, zeros[:min(chunk, end-at)], at)
			if err != nil {
				return err
			}
			at += int64(n)
			c.bytes -= int64(n)
		}
	}
}

// own makes what fd is open on with O_PATH root's, with these permissions.
func own(fd int, st *unix.Stat_t, mode uint32) error {
	if st.Uid != 0 {
		if err := unix.Fchownat(fd, "", 0, -1, unix.AT_EMPTY_PATH); err != nil {
			return fmt.Errorf("make it root's: %w", err)
		}
	}
	// There is no chmod by such a descriptor before Linux 6.6.
	if err := unix.Chmod(procPath(fd), mode); err != nil {
		return fmt.Errorf("change its mode: %w", err)
	}
	return nil
}

// reopen opens what fd is open on with O_PATH, which is a directory or a regular file.
func reopen(fd, flags int) (int, error) {
	again, err := unix.Open(procPath(fd), flags|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("open it: %w", err)
	}
	return again, nil
}

func procPath(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }
