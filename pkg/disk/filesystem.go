package disk

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// Filesystem is what the superblock of a filesystem for pools says.
type Filesystem struct {
	// Type is "btrfs" or "xfs".
	Type string
	// UUID in the usual form, as the kernel shows it.
	UUID  string
	Label string
	// Devices is how many devices the filesystem is spread over.
	Devices int
	// Size is how much of the device it says is its own.
	Size volume.Bytes
}

const (
	btrfsSuperAt  = 64 << 10
	btrfsSuperLen = 4 << 10
	btrfsMagic    = "_BHRfS_M"
)

// ReadFilesystem reads the superblock of a btrfs or an XFS, without any program or
// library that tries everything. ok is false if there is no such superblock, or
// one that is not whole.
func ReadFilesystem(r io.ReaderAt) (f Filesystem, ok bool, err error) {
	buf := make([]byte, btrfsSuperLen)
	if err := readFull(r, buf, 0); err != nil {
		return Filesystem{}, false, err
	}
	if f, ok := readXFS(buf); ok {
		return f, true, nil
	}
	if err := readFull(r, buf, btrfsSuperAt); err != nil {
		return Filesystem{}, false, err
	}
	f, ok = readBtrfs(buf)
	return f, ok, nil
}

// readBtrfs reads struct btrfs_super_block (include/uapi/linux/btrfs_tree.h).
func readBtrfs(sb []byte) (Filesystem, bool) {
	le := binary.LittleEndian
	if string(sb[0x40:0x48]) != btrfsMagic || le.Uint64(sb[0x30:]) != btrfsSuperAt {
		return Filesystem{}, false
	}
	const crc32c = 0
	if le.Uint16(sb[0xc4:]) == crc32c && crc32.Checksum(sb[0x20:], crc32.MakeTable(crc32.Castagnoli)) != le.Uint32(sb) {
		return Filesystem{}, false
	}
	return Filesystem{Type: "btrfs", UUID: uuid(sb[0x20:]), Label: text(sb[0x12b:][:256]), Devices: int(le.Uint64(sb[0x88:])), Size: volume.Bytes(le.Uint64(sb[0x70:]))}, true
}

// readXFS reads struct xfs_dsb (fs/xfs/libxfs/xfs_format.h).
func readXFS(sb []byte) (Filesystem, bool) {
	be := binary.BigEndian
	sectorSize := int(be.Uint16(sb[102:]))
	if string(sb[:4]) != "XFSB" || be.Uint16(sb[100:])&0xf != 5 || sectorSize < 512 || sectorSize > len(sb) {
		return Filesystem{}, false
	}
	const crcAt = 224
	sector := bytes.Clone(sb[:sectorSize])
	copy(sector[crcAt:], []byte{0, 0, 0, 0})
	if crc32.Checksum(sector, crc32.MakeTable(crc32.Castagnoli)) != binary.LittleEndian.Uint32(sb[crcAt:]) {
		return Filesystem{}, false
	}
	devices := 1
	if be.Uint64(sb[48:]) == 0 { // the log starts nowhere here: it is elsewhere
		devices++
	}
	if be.Uint64(sb[16:]) != 0 { // a real-time section
		devices++
	}
	size := volume.Bytes(be.Uint64(sb[8:])) * volume.Bytes(be.Uint32(sb[4:]))
	return Filesystem{Type: "xfs", UUID: uuid(sb[32:]), Label: text(sb[108:120]), Devices: devices, Size: size}, true
}

func uuid(b []byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

func text(b []byte) string { return strings.TrimRight(string(b), "\x00") }

// Filesystem reads the superblock on the device. The kernel may be changing it:
// what looks torn is read again before it counts as none.
func (d Device) Filesystem() (f Filesystem, ok bool, err error) {
	c := d.read()
	return c.filesystem, c.ok, c.err
}

// read is Filesystem, and what the device with it is a member of.
func (d Device) read() (c contents) {
	file, err := d.Open(unix.O_RDONLY)
	if err != nil {
		return contents{err: err}
	}
	defer file.Close()
	if d.Size < btrfsSuperAt+btrfsSuperLen {
		return contents{}
	}
	const attempts, pause = 3, time.Millisecond
	for range attempts {
		if c.filesystem, c.ok, c.err = ReadFilesystem(file); c.ok || c.err != nil {
			break
		}
		time.Sleep(pause)
	}
	if c.ok && c.err == nil {
		c.member, c.err = memberOf(file, d.Size, c.filesystem)
	}
	return c
}
