package filesystem

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// Superblock is what a filesystem says about itself.
type Superblock struct {
	Type volume.FSType
	// BlockSize is the filesystem's block size in bytes, SectorSize the device's
	// that it was made for; ext4 does not record one and has 0.
	BlockSize, SectorSize int
	// Size is the size of the filesystem, which may be less than the device's.
	Size volume.Bytes
	// Tail is the most room at the end of a device that growth leaves unused,
	// because it is too little for a block, or for one more allocation group.
	Tail volume.Bytes
	// UUID in the usual form. Clones share it.
	UUID string
}

// Fills reports whether the filesystem cannot grow any further on a device of this
// size, as resize2fs and the XFS of the kernel see it. (A mounted ext4 may take a
// few blocks more.) It is the one rule for whether something is left to grow.
func (s Superblock) Fills(device volume.Bytes) bool { return s.Size+s.Tail >= device }

// probeLen covers both superblocks: XFS has one sector of at most 32 KiB at 0,
// ext4 1 KiB at 1024.
const probeLen = 32 << 10

// Probe reads the superblock of an ext4 or XFS filesystem that is not mounted,
// without any program or library that tries everything. What is not a whole,
// valid superblock is a LostError, volume.ErrDataLoss: the driver formats a volume when it
// creates it, so whatever else is there means that data was lost.
func Probe(r io.ReaderAt) (Superblock, error) {
	buf := make([]byte, probeLen)
	n, err := r.ReadAt(buf, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return Superblock{}, fmt.Errorf("read the superblock: %w", err)
	}
	buf = buf[:n]
	switch {
	case n >= xfsSuperLen && string(buf[:4]) == "XFSB":
		sb, err := probeXFS(buf)
		return claimed(volume.XFS, sb, err)
	case n >= ext4SuperAt+ext4SuperLen && binary.LittleEndian.Uint16(buf[ext4SuperAt+0x38:]) == 0xEF53:
		sb, err := probeExt4(buf[ext4SuperAt:][:ext4SuperLen])
		return claimed(volume.Ext4, sb, err)
	case len(bytes.Trim(buf, "\x00")) == 0:
		return Superblock{}, lost("the start of the device is all zeros")
	}
	return Superblock{}, lost("there is no ext4 or xfs superblock")
}

// ProbeInUse is Probe for a filesystem that may be mounted, here or in another
// mount namespace. The kernel may be changing the superblock while it is read, and
// then its checksum does not match for an instant: what looks lost is read again
// before it counts.
func ProbeInUse(r io.ReaderAt) (Superblock, error) {
	const attempts, pause = 20, time.Millisecond
	for attempt := 1; ; attempt++ {
		sb, err := Probe(r)
		if !errors.Is(err, volume.ErrDataLoss) || attempt == attempts {
			return sb, err
		}
		time.Sleep(pause)
	}
}

// LostError says that there is no whole, valid superblock. It is volume.ErrDataLoss.
type LostError struct {
	// Reason is what there is instead.
	Reason string
	// Type is the filesystem that the superblock claims to be of, "" if there is none.
	Type volume.FSType
}

// Error is for a volume that cannot be what its record says. It tells people what not
// to do, because the usual reflex destroys what can be saved.
func (e *LostError) Error() string {
	return fmt.Sprintf("%v: %s; this volume was formatted when it was created, so its data has been damaged: it is not formatted again. "+
		"Restore it from a snapshot, or take a snapshot now and let somebody who knows look at a clone of it", volume.ErrDataLoss, e.Reason)
}

func (e *LostError) Unwrap() error { return volume.ErrDataLoss }

func lost(format string, args ...any) error {
	return &LostError{Reason: fmt.Sprintf(format, args...)}
}

// claimed adds to an error what the superblock claims to be.
func claimed(t volume.FSType, sb Superblock, err error) (Superblock, error) {
	var e *LostError
	if errors.As(err, &e) {
		e.Type = t
	}
	return sb, err
}

const (
	ext4SuperAt  = 1024
	ext4SuperLen = 1024
)

// probeExt4 reads struct ext4_super_block (Documentation/filesystems/ext4/super.rst).
func probeExt4(sb []byte) (Superblock, error) {
	const (
		incompat64bit    = 0x80
		roCompatMetaCsum = 0x400
	)
	le := binary.LittleEndian
	if le.Uint32(sb[0x64:])&roCompatMetaCsum != 0 {
		// The kernel's crc32c leaves out the final inversion that Go's has.
		if sum := ^crc32.Checksum(sb[:0x3FC], crc32.MakeTable(crc32.Castagnoli)); sum != le.Uint32(sb[0x3FC:]) {
			return Superblock{}, lost("the ext4 superblock has a wrong checksum")
		}
	}
	shift := le.Uint32(sb[0x18:])
	if shift > 6 {
		return Superblock{}, lost("the ext4 superblock has an impossible block size")
	}
	blocks := uint64(le.Uint32(sb[0x04:]))
	if le.Uint32(sb[0x60:])&incompat64bit != 0 {
		blocks |= uint64(le.Uint32(sb[0x150:])) << 32
	}
	blockSize := 1024 << shift
	size, err := product(blocks, blockSize)
	if err != nil {
		return Superblock{}, err
	}
	return Superblock{Type: volume.Ext4, BlockSize: blockSize, Size: size, Tail: ext4Tail(sb, blocks, blockSize), UUID: uuid(sb[0x68:])}, nil
}

// ext4Tail: a new last group must hold its own metadata and 50 blocks more
// (e2fsprogs, resize/resize2fs.c, adjust_fs_info; lib/ext2fs/initialize.c). A last
// group that is there and not full takes any number of blocks.
func ext4Tail(sb []byte, blocks uint64, blockSize int) volume.Bytes {
	le := binary.LittleEndian
	perGroup, unit := uint64(le.Uint32(sb[0x20:])), uint64(blockSize)
	if perGroup == 0 || perGroup > 8*unit || blocks%perGroup != 0 {
		return volume.Bytes(unit) - 1
	}
	const bitmaps, spare, descriptorSize = 2, 50, 64
	next := blocks / perGroup
	inodeTable := uint64(le.Uint32(sb[0x28:])) * uint64(le.Uint16(sb[0x58:])) / unit
	need := bitmaps + inodeTable + spare
	if hasExt4Super(next) {
		descriptors := (next*descriptorSize + descriptorSize + unit - 1) / unit
		reserved := uint64(le.Uint16(sb[0xCE:]))
		need += 1 + descriptors + reserved
	}
	return volume.Bytes(min(need, perGroup)*unit) - 1
}

// hasExt4Super says whether a group holds a copy of the superblock and of the
// group descriptors: with sparse_super 0, 1 and the powers of 3, 5 and 7 do.
func hasExt4Super(group uint64) bool {
	for _, base := range []uint64{3, 5, 7} {
		power := uint64(1)
		for power < group {
			power *= base
		}
		if power == group {
			return true
		}
	}
	return group == 0
}

const xfsSuperLen = 512

// probeXFS reads struct xfs_dsb (fs/xfs/libxfs/xfs_format.h).
func probeXFS(buf []byte) (Superblock, error) {
	be := binary.BigEndian
	blockSize, sectorSize := be.Uint32(buf[4:]), int(be.Uint16(buf[102:]))
	if blockSize < 512 || blockSize > 64<<10 || blockSize&(blockSize-1) != 0 ||
		sectorSize < 512 || sectorSize > len(buf) || sectorSize&(sectorSize-1) != 0 {
		return Superblock{}, lost("the xfs superblock has impossible sizes")
	}
	if version := be.Uint16(buf[100:]) & 0xf; version != 5 {
		return Superblock{}, lost("the xfs superblock has version %d, this driver makes version 5", version)
	}
	// The checksum covers the sector with its own field as zero.
	const crcAt = 224
	sector := bytes.Clone(buf[:sectorSize])
	copy(sector[crcAt:], []byte{0, 0, 0, 0})
	if crc32.Checksum(sector, crc32.MakeTable(crc32.Castagnoli)) != binary.LittleEndian.Uint32(buf[crcAt:]) {
		return Superblock{}, lost("the xfs superblock has a wrong checksum")
	}
	const inProgressAt = 126
	if buf[inProgressAt] != 0 {
		return Superblock{}, lost("mkfs.xfs was interrupted while it made this filesystem")
	}
	size, err := product(be.Uint64(buf[8:]), int(blockSize))
	if err != nil {
		return Superblock{}, err
	}
	return Superblock{
		Type: volume.XFS, BlockSize: int(blockSize), SectorSize: sectorSize, Size: size,
		Tail: xfsTail(buf, blockSize), UUID: uuid(buf[32:]),
	}, nil
}

// xfsTail: a new last group has at least 64 blocks (fs/xfs/xfs_fsops.c,
// xfs_growfs_data_private; XFS_MIN_AG_BLOCKS). A last group that is there and not
// full takes any number of them.
func xfsTail(sb []byte, blockSize uint32) volume.Bytes {
	const minGroup = 64
	be := binary.BigEndian
	blocks, perGroup := be.Uint64(sb[8:]), uint64(be.Uint32(sb[84:]))
	if perGroup == 0 || blocks%perGroup != 0 {
		return volume.Bytes(blockSize) - 1
	}
	return minGroup*volume.Bytes(blockSize) - 1
}

func product(blocks uint64, blockSize int) (volume.Bytes, error) {
	if blocks == 0 || blocks > uint64(math.MaxInt64)/uint64(blockSize) {
		return 0, lost("the superblock claims %d blocks of %d bytes", blocks, blockSize)
	}
	return volume.Bytes(blocks) * volume.Bytes(blockSize), nil
}

func uuid(b []byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:16])
}
