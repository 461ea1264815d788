package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// signature is what something writes to a device to say that it is there.
type signature struct {
	what  string
	magic string
	// at are offsets in bytes; negative ones count from the end of the device.
	at []int64
}

// signatures are those of what is met on disks (util-linux, libblkid/src). What is
// not in the list is caught by Blank, which wants zeros.
var signatures = []signature{
	{"a GPT partition table", "EFI PART", []int64{512, 4096, -512, -4096}},
	{"an MBR partition table or a boot sector", "\x55\xaa", []int64{510}},
	{"an ext2, ext3 or ext4 filesystem", "\x53\xef", []int64{0x438}},
	{"an xfs filesystem", "XFSB", []int64{0}},
	{"a btrfs filesystem", btrfsMagic, []int64{btrfsSuperAt + 0x40}},
	{"a btrfs filesystem whose mkfs was interrupted", "!BHRfS_M", []int64{btrfsSuperAt + 0x40}},
	{"an f2fs filesystem", "\x10\x20\xf5\xf2", []int64{1024}},
	{"a nilfs2 filesystem", "\x34\x34", []int64{1030}},
	{"an NTFS filesystem", "NTFS    ", []int64{3}},
	{"an exFAT filesystem", "EXFAT   ", []int64{3}},
	{"a FAT filesystem", "FAT", []int64{54, 82}},
	{"an ISO 9660 filesystem", "CD001", []int64{32769}},
	{"a squashfs filesystem", "hsqs", []int64{0}},
	{"a bcache device", "\xc6\x85\x73\xf6\x4e\x1a\x45\xca", []int64{4096 + 24}},
	{"a bcachefs filesystem", "\xc6\x85\x73\xf6\x66\xce\x90\xa9", []int64{4096 + 24}},
	{"an LVM physical volume", "LABELONE", []int64{0, 512, 1024, 1536}},
	{raidMember, raidMagic, []int64{0, 4096}},
	{biosRAIDMember, "Intel Raid ISM Cfg Sig. ", []int64{-1024}},
	{biosRAIDMember, "\xde\x11\xde\x11", []int64{-512}}, // SNIA DDF
	{"an encrypted volume (LUKS)", "LUKS\xba\xbe", []int64{0}},
	{"an encrypted volume (second LUKS header)", "SKUL\xba\xbe", []int64{0x4000, 0x8000, 0x10000, 0x20000, 0x40000, 0x80000, 0x100000}},
	{"a Ceph OSD", "bluestore block device", []int64{0}},
	{"swap space", "SWAPSPACE2", swapAt},
	{"swap space", "SWAP-SPACE", swapAt},
	{"a Stratis pool", "!Stra0tis\x86\xff\x02^Arh", []int64{512 + 4, 9*512 + 4}},
	{"a VDO volume", "dmvdo001", []int64{0}},
	{"a dm-integrity volume", "integrt", []int64{0}},
}

// raidMagic is 0xa92b4efc, as Linux RAID (md) writes it on all machines since
// metadata 1.0.
const raidMagic = "\xfc\x4e\x2b\xa9"

// swapAt is the end of the first page, for the page sizes that there are.
var swapAt = []int64{4<<10 - 10, 8<<10 - 10, 16<<10 - 10, 32<<10 - 10, 64<<10 - 10}

// Signatures says what a device of a size has on it, by what it knows: nil if
// nothing.
func Signatures(r io.ReaderAt, size volume.Bytes) ([]string, error) {
	var found []string
	add := func(what string) {
		if !slices.Contains(found, what) {
			found = append(found, what)
		}
	}
	for _, s := range signatures {
		for _, at := range s.at {
			if at < 0 {
				at += int64(size)
			}
			ok, err := has(r, size, at, s.magic)
			if err != nil {
				return nil, err
			}
			if ok {
				add(s.what)
			}
		}
	}
	for _, at := range raidEnds(size) {
		ok, err := has(r, size, at, raidMagic)
		if err != nil {
			return nil, err
		}
		if ok {
			add(raidMember)
		}
	}
	zfs, err := hasZFS(r, size)
	if zfs {
		add("a member of a ZFS pool")
	}
	return found, err
}

func has(r io.ReaderAt, size volume.Bytes, at int64, magic string) (bool, error) {
	if at < 0 || at+int64(len(magic)) > int64(size) {
		return false, nil
	}
	buf := make([]byte, len(magic))
	if err := readFull(r, buf, at); err != nil {
		return false, err
	}
	return string(buf) == magic, nil
}

// hasZFS looks for an uberblock in the ring of the first label.
func hasZFS(r io.ReaderAt, size volume.Bytes) (bool, error) {
	const ring, slot, magic = 128 << 10, 1 << 10, 0x00bab10c
	if size < 2*ring {
		return false, nil
	}
	buf := make([]byte, ring)
	if err := readFull(r, buf, ring); err != nil {
		return false, err
	}
	for at := 0; at < ring; at += slot {
		if binary.LittleEndian.Uint64(buf[at:]) == magic || binary.BigEndian.Uint64(buf[at:]) == magic {
			return true, nil
		}
	}
	return false, nil
}

// edge is how much of each end of a device must be zeros to be blank.
const edge = volume.MiB

// Blank says why a device of a size is not blank, as volume.ErrPrecondition: it
// has something that Signatures knows, or anything but zeros in its first or last
// MiB.
func Blank(r io.ReaderAt, size volume.Bytes) error {
	found, err := Signatures(r, size)
	if err != nil {
		return err
	}
	if len(found) > 0 {
		return fmt.Errorf("%w: it has %s on it; if nobody needs that, remove it by hand (wipefs --all --backup DEVICE) and try again", volume.ErrPrecondition, strings.Join(found, " and "))
	}
	buf := make([]byte, min(edge, size))
	for _, end := range []struct {
		name string
		at   int64
	}{{"first", 0}, {"last", int64(size) - int64(len(buf))}} {
		if err := readFull(r, buf, end.at); err != nil {
			return err
		}
		if len(bytes.Trim(buf, "\x00")) > 0 {
			return fmt.Errorf("%w: nothing that is known is on it, but its %s MiB is not all zeros; if nobody needs that, overwrite it by hand (dd if=/dev/zero of=DEVICE, or blkdiscard -z DEVICE) and try again", volume.ErrPrecondition, end.name)
		}
	}
	return nil
}

func readFull(r io.ReaderAt, buf []byte, at int64) error {
	n, err := r.ReadAt(buf, at)
	if n == len(buf) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read %d bytes at %d: %w", len(buf), at, err)
}
