// Package sparse copies files that have holes, and knows their content again.
//
// It promises that blocks of zeros take no space in a copy, whether they were holes
// or had been written, and that a digest is the same for all files with the same
// content, however their holes lie. It refuses a file that becomes shorter while it
// is read, and changes nothing that it reads.
package sparse

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// Block is the unit in bytes in which zeros are left out.
const Block = 4 * volume.KiB

// Digest identifies a content: the SHA-256 of the blocks that are not all zeros,
// each after its offset, and of the length, in hexadecimal.
type Digest string

// Copy copies the first size bytes of src to dst, which must be empty, and makes dst
// that long. did is told how many bytes were read, again and again; it may be nil.
// Holes are not read. The digest is that of what was read. A src that ends early is
// volume.ErrInUse: something makes it shorter.
func Copy(ctx context.Context, dst, src *os.File, size volume.Bytes, did func(volume.Bytes)) (Digest, error) {
	sum := newDigest()
	// First, for a file that grows as it is written gets room beyond its end (xfs).
	err := dst.Truncate(int64(size))
	if err == nil {
		err = read(ctx, src, int64(size), did, func(at int64, data []byte) error {
			sum.add(at, data)
			_, err := dst.WriteAt(data, at)
			return err
		})
	}
	if err != nil {
		return "", fmt.Errorf("copy %s: %w", src.Name(), err)
	}
	return sum.end(int64(size)), nil
}

// Sum is the digest of the first size bytes of f. did is as for Copy.
func Sum(ctx context.Context, f *os.File, size volume.Bytes, did func(volume.Bytes)) (Digest, error) {
	sum := newDigest()
	err := read(ctx, f, int64(size), did, func(at int64, data []byte) error {
		sum.add(at, data)
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("read %s: %w", f.Name(), err)
	}
	return sum.end(int64(size)), nil
}

// Data is how many of the first size bytes of f are in blocks that are no holes. A
// filesystem that does not tell has none.
func Data(f *os.File, size volume.Bytes) (volume.Bytes, error) {
	var total volume.Bytes
	for at := int64(0); at < int64(size); {
		start, end, err := nextData(f, at, int64(size))
		if err != nil {
			return 0, fmt.Errorf("look for holes in %s: %w", f.Name(), err)
		}
		total += volume.Bytes(end - start)
		at = end
	}
	return total, nil
}

// Forget takes what is clean of f out of the page cache, so that it is read from the
// disk the next time. What is dirty is written first.
func Forget(f *os.File) error {
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", f.Name(), err)
	}
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return fmt.Errorf("drop %s from the page cache: %w", f.Name(), err)
	}
	return nil
}

// piece is how much is read at once, a multiple of Block.
const piece = 1 << 20

// read gives visit the blocks of f that are not all zeros, in order, several at once
// where they are neighbours. data is valid during the call.
func read(ctx context.Context, f *os.File, size int64, did func(volume.Bytes), visit func(at int64, data []byte) error) error {
	buf := make([]byte, piece)
	for at := int64(0); at < size; {
		start, end, err := nextData(f, at, size)
		if err != nil {
			return err
		}
		for at = start; at < end; {
			if err := ctx.Err(); err != nil {
				return context.Cause(ctx)
			}
			part := buf[:min(piece, end-at)]
			if _, err := f.ReadAt(part, at); err != nil {
				if errors.Is(err, io.EOF) {
					err = errShorter()
				}
				return err
			}
			if err := visitBlocks(part, at, visit); err != nil {
				return err
			}
			at += int64(len(part))
			if did != nil {
				did(volume.Bytes(len(part)))
			}
		}
	}
	return checkLength(f, size)
}

// checkLength: beyond the end of a file there are holes, as far as the kernel tells.
func checkLength(f *os.File, size int64) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFREG && st.Size < size {
		return errShorter()
	}
	return nil
}

func errShorter() error {
	return fmt.Errorf("%w: it became shorter while it was read", volume.ErrInUse)
}

// visitBlocks passes on what is between the blocks of zeros.
func visitBlocks(part []byte, at int64, visit func(int64, []byte) error) error {
	var zeros [Block]byte
	begin := -1 // of a run that is not over
	for off := 0; off < len(part); off += int(Block) {
		end := min(off+int(Block), len(part))
		blank := bytes.Equal(part[off:end], zeros[:end-off])
		switch {
		case !blank && begin < 0:
			begin = off
		case blank && begin >= 0:
			if err := visit(at+int64(begin), part[begin:off]); err != nil {
				return err
			}
			begin = -1
		}
	}
	if begin >= 0 {
		return visit(at+int64(begin), part[begin:])
	}
	return nil
}

// nextData is the next range of f at or after at that is no hole, widened to whole
// blocks; it is empty, at size, if there is none.
func nextData(f *os.File, at, size int64) (start, end int64, err error) {
	start, err = unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return size, size, nil
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP):
		return at, size, nil // it does not know holes
	case err != nil:
		return 0, 0, err
	}
	end, err = unix.Seek(int(f.Fd()), start, unix.SEEK_HOLE)
	if errors.Is(err, unix.ENXIO) {
		return 0, 0, errShorter() // there was data an instant ago
	}
	if err != nil {
		return 0, 0, err
	}
	block := int64(Block)
	return min(max(at, start/block*block), size), min((end+block-1)/block*block, size), nil
}

// digest computes a Digest.
type digest struct{ hash hash.Hash }

func newDigest() digest { return digest{sha256.New()} }

// add takes in blocks of which none is all zeros.
func (d digest) add(at int64, data []byte) {
	for len(data) > 0 {
		n := min(len(data), int(Block))
		d.number(at)
		d.hash.Write(data[:n])
		at, data = at+int64(n), data[n:]
	}
}

func (d digest) number(n int64) {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], uint64(n))
	d.hash.Write(b[:])
}

func (d digest) end(size int64) Digest {
	d.number(size)
	return Digest(hex.EncodeToString(d.hash.Sum(nil)))
}
