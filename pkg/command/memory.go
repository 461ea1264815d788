package command

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// newMemoryFile makes a file without a name that takes maxStdout bytes; what is
// written after that is refused, and lost (man 2 memfd_create, F_SEAL_GROW). A
// file on a disk would need a directory, and a container may have none.
func newMemoryFile(name string) (*os.File, error) {
	fail := func(err error) (*os.File, error) { return nil, fmt.Errorf("make a file for its %s: %w", name, err) }
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_NOEXEC_SEAL)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3
		fd, err = unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return fail(err)
	}
	f := os.NewFile(uintptr(fd), name)
	err = f.Truncate(maxStdout)
	if err == nil {
		_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_GROW|unix.F_SEAL_SHRINK)
	}
	if err != nil {
		f.Close()
		return fail(err)
	}
	return f, nil
}

// printed is what a program wrote to a memory file: how much that is, the offset
// tells that it shares with us.
func printed(f *os.File) []byte {
	n, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return nil
	}
	out := make([]byte, min(n, maxStdout))
	read, _ := f.ReadAt(out, 0) // there is nothing that memory could say
	return out[:read]
}
