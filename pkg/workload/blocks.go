package workload

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// BlockSize is the unit of Blocks, in bytes.
const BlockSize = 4 << 10

// Blocks is a file or block device whose blocks are overwritten again and again,
// in random order: what breaks up extents. It remembers what each block must hold.
// It is for one goroutine.
type Blocks struct {
	path   string
	seed   uint64
	rounds []uint32 // of each block: how often it was written
	random *rand.Rand
}

// NewBlocks fills the first size bytes of a file or block device, from the front,
// and syncs them.
func NewBlocks(path string, seed uint64, size volume.Bytes) (*Blocks, error) {
	b := &Blocks{path: path, seed: seed, rounds: make([]uint32, size/BlockSize), random: rand.New(rand.NewPCG(seed, 0))}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("fill blocks: %w", err)
	}
	defer f.Close()
	const group = chunk / BlockSize
	buf := make([]byte, 0, chunk)
	for i := 0; i < len(b.rounds); i += group {
		buf = buf[:0]
		for j := i; j < min(i+group, len(b.rounds)); j++ {
			buf = b.append(buf, j)
		}
		if _, err := f.WriteAt(buf, int64(i)*BlockSize); err != nil {
			return nil, fmt.Errorf("fill blocks of %s: %w", path, err)
		}
	}
	if err := f.Sync(); err != nil {
		return nil, fmt.Errorf("sync blocks of %s: %w", path, err)
	}
	return b, nil
}

// Rewrite overwrites every block for which skip is false, in random order, one
// write(2) each past the page cache (O_DIRECT), and syncs at the end.
func (b *Blocks) Rewrite(skip func(block int) bool) error {
	f, err := os.OpenFile(b.path, os.O_WRONLY|unix.O_DIRECT, 0)
	if err != nil {
		return fmt.Errorf("rewrite blocks: %w", err)
	}
	defer f.Close()
	page, err := unix.Mmap(-1, 0, BlockSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return fmt.Errorf("get an aligned page: %w", err)
	}
	defer func() { _ = unix.Munmap(page) }()
	for _, i := range b.random.Perm(len(b.rounds)) {
		if skip(i) {
			continue
		}
		b.rounds[i]++
		b.append(page[:0], i)
		if _, err := f.WriteAt(page, int64(i)*BlockSize); err != nil {
			b.rounds[i]--
			return fmt.Errorf("rewrite block %d of %s: %w", i, b.path, err)
		}
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync blocks of %s: %w", b.path, err)
	}
	return nil
}

// Verify is ErrContent if a block does not hold what was written last.
func (b *Blocks) Verify() error {
	f, err := os.Open(b.path)
	if err != nil {
		return fmt.Errorf("verify blocks: %w", err)
	}
	defer f.Close()
	if err := dropCache(f); err != nil {
		return err
	}
	have, want := make([]byte, BlockSize), make([]byte, 0, BlockSize)
	for i := range b.rounds {
		if _, err := f.ReadAt(have, int64(i)*BlockSize); err != nil {
			return fmt.Errorf("%w: read block %d of %s: %w", ErrContent, i, b.path, err)
		}
		if want = b.append(want[:0], i); string(have) != string(want) {
			return fmt.Errorf("%w: block %d of %s, written %d times", ErrContent, i, b.path, b.rounds[i]+1)
		}
	}
	return nil
}

// append adds what block i must hold. No two blocks, rounds or seeds have the same.
func (b *Blocks) append(buf []byte, i int) []byte {
	source := rand.NewPCG(b.seed, uint64(b.rounds[i])<<32|uint64(i))
	for range BlockSize / 8 {
		buf = binary.LittleEndian.AppendUint64(buf, source.Uint64())
	}
	return buf
}
