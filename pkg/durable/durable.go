// Package durable is the only place where a file or a name of the driver's own
// records becomes durable: written, synced, renamed, and the directory synced
// too, in the order that survives a power cut (rename(2), fsync(2), and the
// ALICE study, OSDI '14).
//
// It promises that when a function returns nil, the new state is on the disk,
// and that at every instant before, either the old state or the new one is. It
// works below an os.Root only, so a name never leads out of it. It does not
// retry a failed fsync: the kernel may have marked the lost pages clean, so the
// caller must take the error as "unknown" and read again from the disk.
package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"

	"golang.org/x/sys/unix"
)

// WriteFile replaces the file name with data. The old content stays until the
// new one is complete. Temporary files it leaves behind after a crash end in
// TempSuffix; the next WriteFile of the same name replaces them.
func WriteFile(root *os.Root, name string, data []byte) error {
	f, err := writeSynced(root, name+TempSuffix, data)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return Rename(root, name+TempSuffix, name)
}

// WriteLocked makes a new file that is under flock(2) from before it has its name.
// The lock lasts until the file is closed, which is the caller's. It is
// fs.ErrExist if the name is taken: what has a name and a lock is never replaced
// behind the back of whoever holds the lock.
func WriteLocked(root *os.Root, name string, data []byte) (*os.File, error) {
	f, err := writeSynced(root, name+TempSuffix, data)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err != nil {
		err = fmt.Errorf("lock %s: %w", name, err)
	} else {
		err = renameNew(root, name+TempSuffix, name)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// renameNew is Rename within one directory to a name that nobody has.
func renameNew(root *os.Root, from, to string) error {
	d, err := root.Open(path.Dir(to))
	if err != nil {
		return fmt.Errorf("open directory %s: %w", path.Dir(to), err)
	}
	defer d.Close()
	fd := int(d.Fd())
	if err := unix.Renameat2(fd, path.Base(from), fd, path.Base(to), unix.RENAME_NOREPLACE); err != nil {
		return errors.Join(fmt.Errorf("rename %s to %s: %w", from, to, err), root.Remove(from))
	}
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync directory %s: %w", path.Dir(to), err)
	}
	return nil
}

// TempSuffix marks a file that is being written.
const TempSuffix = ".tmp"

// writeSynced writes a new file and syncs it. The caller closes it.
func writeSynced(root *os.Root, name string, data []byte) (*os.File, error) {
	// A new inode: a file of a writer that is still at it keeps its content and lock.
	if err := root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove the unfinished %s: %w", name, err)
	}
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("create %s: %w", name, err)
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("write %s: %w", name, err), f.Close())
	}
	return f, nil
}

// Rename renames a file or directory and makes that durable. What is renamed
// must have been synced before.
func Rename(root *os.Root, from, to string) error {
	if err := Move(root, from, to); err != nil {
		return err
	}
	if err := SyncDir(root, path.Dir(to)); err != nil {
		return err
	}
	if path.Dir(from) == path.Dir(to) {
		return nil
	}
	return SyncDir(root, path.Dir(from))
}

// Move renames a file or directory and leaves it to the caller to make that
// durable: by a commit of the whole filesystem, or by another function of this
// package on the same directory.
func Move(root *os.Root, from, to string) error {
	if err := root.Rename(from, to); err != nil {
		return fmt.Errorf("rename %s to %s: %w", from, to, err)
	}
	return nil
}

// Remove removes a file or an empty directory and makes that durable. One that
// does not exist is success.
func Remove(root *os.Root, name string) error {
	err := root.Remove(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	return SyncDir(root, path.Dir(name))
}

// SyncDir makes the names in a directory durable.
func SyncDir(root *os.Root, name string) error {
	d, err := root.Open(name)
	if err != nil {
		return fmt.Errorf("open directory %s: %w", name, err)
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("sync directory %s: %w", name, err)
	}
	return nil
}
