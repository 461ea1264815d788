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
	f, _, ok, err = d.read()
	return f, ok, err
}

// read is Filesystem, and what the device with it is a member of.
func (d Device) read() (f Filesystem, member string, ok bool, err error) {
	file, err := d.Open(unix.O_RDONLY)
	if err != nil {
		return Filesystem{}, "", false, err
	}
	defer file.Close()
	if d.Size < btrfsSuperAt+btrfsSuperLen {
		return Filesystem{}, "", false, nil
	}
	const attempts, pause = 3, time.Millisecond
	for range attempts {
		if f, ok, err = ReadFilesystem(file); ok || err != nil {
			break
		}
		time.Sleep(pause)
	}
	if ok && err == nil {
		member, err = memberOf(file, d.Size, f)
	}
	return f, member, ok, err
}

// Found is what a search for a filesystem has found.
type Found struct {
	// Devices have the filesystem.
	Devices []Device
	// Members show it too and are parts of something that is not assembled.
	Members []Member
}

// Member is a device that is a part of something.
type Member struct {
	Device
	// What it is, such as "a member of a Linux RAID".
	What string
}

// WithFilesystem are the devices that have a filesystem of this UUID and that
// belong to no other device: the members of an array or a multipath show what the
// whole shows. Those of an array that is not assembled are known by what is written
// on them; the paths of a multipath that is not are not, and count as copies. skip
// says which devices are not even looked at; it may be nil. Devices that cannot be
// read are left out.
func WithFilesystem(uuid string, skip func(Device) bool) (Found, error) {
	all, err := List()
	if err != nil {
		return Found{}, err
	}
	var out Found
	for _, d := range all {
		if skip != nil && skip(d) || len(d.Holders()) > 0 {
			continue
		}
		f, member, ok, err := d.read()
		switch {
		case err != nil || !ok || f.UUID != uuid:
		case member != "":
			out.Members = append(out.Members, Member{d, member})
		default:
			out.Devices = append(out.Devices, d)
		}
	}
	return out, nil
}
