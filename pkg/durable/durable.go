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
)

// WriteFile replaces the file name with data. The old content stays until the
// new one is complete. Temporary files it leaves behind after a crash end in
// TempSuffix; the next WriteFile of the same name replaces them.
func WriteFile(root *os.Root, name string, data []byte) error {
	tmp := name + TempSuffix
	if err := writeSynced(root, tmp, data); err != nil {
		return err
	}
	return Rename(root, tmp, name)
}

// TempSuffix marks a file that is being written.
const TempSuffix = ".tmp"

func writeSynced(root *os.Root, name string, data []byte) error {
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("create %s: %w", name, err)
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// Rename renames a file or directory and makes that durable. What is renamed
// must have been synced before.
func Rename(root *os.Root, from, to string) error {
	if err := root.Rename(from, to); err != nil {
		return fmt.Errorf("rename %s to %s: %w", from, to, err)
	}
	if err := SyncDir(root, path.Dir(to)); err != nil {
		return err
	}
	if path.Dir(from) == path.Dir(to) {
		return nil
	}
	return SyncDir(root, path.Dir(from))
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
