// Package workload writes data whose every byte can be checked later, and
// watches what it costs: files of a known pattern, and a journal that says which
// of its records were acknowledged when.
//
// It promises that a check compares content, never sizes or names, and that a
// record counts as acknowledged only after fsync(2) returned. It plays the
// application in the demo, the tests and the benchmarks; the driver itself does
// not import it.
package workload

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

const chunk = 1 << 20

// pattern is an endless stream of bytes that a seed determines.
func pattern(seed uint64) io.Reader {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	return rand.NewChaCha8(key)
}

// Write fills the first size bytes of a file or block device with the pattern of
// seed and closes it. It syncs only if told to.
func Write(path string, seed uint64, size volume.Bytes, sync bool) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("write pattern: %w", err)
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{f}, io.LimitReader(pattern(seed), int64(size)), make([]byte, chunk))
	if err == nil && sync {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("write pattern to %s: %w", path, err)
	}
	return nil
}

// ErrContent means that what was read is not what was written.
var ErrContent = errors.New("content differs from what was written")

// Verify checks that the first size bytes of a file or block device are the
// pattern of seed. It is ErrContent, with the offset, if they are not. What was
// synced is read from below, not from the page cache of the file or device.
func Verify(path string, seed uint64, size volume.Bytes) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("verify pattern: %w", err)
	}
	defer f.Close()
	if err := dropCache(f); err != nil {
		return err
	}
	have, want := bufio.NewReaderSize(f, chunk), bufio.NewReaderSize(pattern(seed), chunk)
	a, b := make([]byte, chunk), make([]byte, chunk)
	for at := volume.Bytes(0); at < size; at += chunk {
		n := min(size-at, chunk)
		if _, err := io.ReadFull(have, a[:n]); err != nil {
			return fmt.Errorf("%w: %s ends before byte %d: %w", ErrContent, path, at+n, err)
		}
		if _, err := io.ReadFull(want, b[:n]); err != nil {
			return fmt.Errorf("make pattern: %w", err)
		}
		for i := range n {
			if a[i] != b[i] {
				return fmt.Errorf("%w: %s at byte %d", ErrContent, path, at+i)
			}
		}
	}
	return nil
}

// dropCache makes the next read of what is clean come from below: who has just
// written it would see its own pages and miss what got lost under them.
func dropCache(f *os.File) error {
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return fmt.Errorf("drop the cached pages of %s: %w", f.Name(), err)
	}
	return nil
}
