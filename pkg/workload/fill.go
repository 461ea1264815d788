package workload

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// Manner is how a Filler writes.
type Manner string

// The manners of a Filler.
const (
	Buffered Manner = "buffered" // through the page cache, synced now and then
	Direct   Manner = "direct"   // past it
	Mapped   Manner = "mmap"     // through a mapping, msync now and then
	Small    Manner = "small"    // many small files: mostly metadata
)

// Manners are all of them.
func Manners() []Manner { return []Manner{Buffered, Direct, Mapped, Small} }

// size of each file, in bytes.
func (m Manner) size() int {
	if m == Small {
		return 3000
	}
	return 8 << 20
}

// syncEvery is after how many files one is synced: in between, data waits in
// memory.
func (m Manner) syncEvery() int {
	if m == Small {
		return 500
	}
	return 8
}

// perDir bounds how many files are in a directory.
const perDir = 1000

// Filler writes one file after another into a directory, as fast as it can, until
// Stop or its first error.
type Filler struct {
	dir    string
	manner Manner
	stop   chan struct{}
	done   chan struct{}

	mu      sync.Mutex
	files   int
	written volume.Bytes
	stall   time.Duration // longest time from one file to the next
	last    time.Time
	err     error
}

// StartFill starts to fill a directory.
func StartFill(dir string, manner Manner) *Filler {
	f := &Filler{dir: dir, manner: manner, stop: make(chan struct{}), done: make(chan struct{}), last: time.Now()}
	go f.run()
	return f
}

func (f *Filler) run() {
	defer close(f.done)
	for n := 0; ; n++ {
		select {
		case <-f.stop:
			return
		default:
		}
		err := f.write(n)
		f.mu.Lock()
		if err != nil {
			f.err = err
			f.mu.Unlock()
			return
		}
		now := time.Now()
		f.files, f.written = n+1, f.written+volume.Bytes(f.manner.size())
		f.stall, f.last = max(f.stall, now.Sub(f.last)), now
		f.mu.Unlock()
	}
}

// Files is how many files were written, and the first error of the writer.
func (f *Filler) Files() (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.files, f.err
}

// Stall is the longest time between two files since the last call, the time since
// the newest one included.
func (f *Filler) Stall() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := max(f.stall, time.Since(f.last))
	f.stall = 0
	return out
}

// Stop ends writing and returns how many files there are and the first error.
func (f *Filler) Stop() (int, error) {
	close(f.stop)
	<-f.done
	return f.Files()
}

func fillPath(dir string, n int) string {
	return filepath.Join(dir, fmt.Sprintf("%05d", n/perDir), fmt.Sprintf("%03d", n%perDir))
}

// fillContent is what the file of a number has in it.
func fillContent(manner Manner, n int) ([]byte, error) {
	out := aligned(manner.size())
	_, err := io.ReadFull(pattern(uint64(n)), out)
	return out, err
}

func (f *Filler) write(n int) error {
	path := fillPath(f.dir, n)
	fail := func(err error) error { return fmt.Errorf("write file %d, %s: %w", n, f.manner, err) }
	content, err := fillContent(f.manner, n)
	if err != nil {
		return fail(err)
	}
	if n%perDir == 0 {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return fail(err)
		}
	}
	flags := os.O_RDWR | os.O_CREATE | os.O_EXCL
	if f.manner == Direct {
		flags |= unix.O_DIRECT
	}
	file, err := os.OpenFile(path, flags, 0o600)
	if err != nil {
		return fail(err)
	}
	sync := n%f.manner.syncEvery() == f.manner.syncEvery()-1
	err = put(file, f.manner, content, sync)
	if cerr := file.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fail(err)
	}
	return nil
}

// put writes in pieces of what a program usually writes at once.
func put(file *os.File, manner Manner, content []byte, sync bool) error {
	if manner == Mapped {
		return putMapped(file, content, sync)
	}
	const piece = 1 << 20
	for rest := content; len(rest) > 0; {
		n := min(len(rest), piece)
		if _, err := file.Write(rest[:n]); err != nil {
			return err
		}
		rest = rest[n:]
	}
	if !sync {
		return nil
	}
	return file.Sync()
}

func putMapped(file *os.File, content []byte, sync bool) error {
	if err := file.Truncate(int64(len(content))); err != nil {
		return err
	}
	view, err := unix.Mmap(int(file.Fd()), 0, len(content), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map %s: %w", file.Name(), err)
	}
	copy(view, content)
	if sync {
		err = unix.Msync(view, unix.MS_SYNC)
	}
	return errors.Join(err, unix.Munmap(view))
}

// aligned is memory as direct I/O wants it.
func aligned(size int) []byte {
	const page = 4096
	buf := make([]byte, size+page)
	off := int(-uintptr(unsafe.Pointer(&buf[0])) % page)
	return buf[off : off+size : off+size]
}

// VerifyFill checks the content of the first n files of a Filler, read from below
// the page cache. It is ErrContent if one differs.
func VerifyFill(dir string, manner Manner, n int) error {
	for i := range n {
		want, err := fillContent(manner, i)
		if err != nil {
			return err
		}
		have, err := readFromBelow(fillPath(dir, i))
		if err != nil {
			return fmt.Errorf("%w: file %d: %w", ErrContent, i, err)
		}
		if !bytes.Equal(have, want) {
			return fmt.Errorf("%w: file %d of %d, %s", ErrContent, i, n, manner)
		}
	}
	return nil
}

func readFromBelow(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := dropCache(f); err != nil {
		return nil, err
	}
	return io.ReadAll(f)
}
