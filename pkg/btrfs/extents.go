package btrfs

import (
	"encoding/binary"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Extent is a part of a file that has a place on the device, all in bytes. The
// part may be less than what was allocated for it: an extent stays allocated as a
// whole while any part of it is in use.
type Extent struct {
	FileOffset int64
	Bytes      int64
	// DiskStart and DiskBytes are the whole allocated extent, and Offset is where
	// this part begins in it.
	DiskStart, DiskBytes, Offset int64
	// Generation is the transaction that wrote the part.
	Generation uint64
	// Preallocated: nothing was written there yet.
	Preallocated bool
}

// FileExtents calls fn for each extent of an open file, in order of offset;
// holes are left out. What is still on its way to the disk may be missing. An
// error of fn ends the walk and is returned.
//
// It reads the items of the file in its subvolume's tree (BTRFS_IOC_TREE_SEARCH_V2),
// which says more than FIEMAP and does not look for other owners.
func FileExtents(f *os.File, fn func(Extent) error) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fmt.Errorf("stat %s: %w", f.Name(), err)
	}
	const bufSize = 256 << 10
	args := newSearch(bufSize)
	for offset := uint64(0); ; {
		items, err := args.search(f, searchKey{
			minObjectID: st.Ino, maxObjectID: st.Ino, minType: extentDataKey, maxType: extentDataKey,
			minOffset: offset, maxOffset: ^uint64(0), maxTransid: ^uint64(0), items: ^uint32(0),
		})
		if err != nil {
			return fmt.Errorf("list the extents of %s: %w", f.Name(), err)
		}
		if len(items) == 0 {
			return nil
		}
		for _, it := range items {
			e, ok := parseExtent(it)
			if ok {
				if err := fn(e); err != nil {
					return err
				}
			}
		}
		last := items[len(items)-1].offset
		if last == ^uint64(0) {
			return nil
		}
		offset = last + 1
	}
}

const (
	iocTreeSearchV2 = 0xc0709411
	extentDataKey   = 108 // BTRFS_EXTENT_DATA_KEY
	searchHeader    = 32  // sizeof(struct btrfs_ioctl_search_header)
)

// searchKey is struct btrfs_ioctl_search_key. A treeID of 0 is the subvolume of
// the open file.
type searchKey struct {
	treeID                   uint64
	minObjectID, maxObjectID uint64
	minOffset, maxOffset     uint64
	minTransid, maxTransid   uint64
	minType, maxType         uint32
	items                    uint32
	_                        uint32
	_                        [4]uint64
}

// search holds a struct btrfs_ioctl_search_args_v2 and the buffer behind it.
type search struct{ raw []byte }

const searchArgs = 104 + 8 // the key and the size of the buffer

func newSearch(bufSize int) search { return search{make([]byte, searchArgs+bufSize)} }

type searchItem struct {
	offset uint64 // of the item's key
	body   []byte // valid until the next search
}

func (s search) search(f *os.File, key searchKey) ([]searchItem, error) {
	*(*searchKey)(unsafe.Pointer(&s.raw[0])) = key
	binary.NativeEndian.PutUint64(s.raw[104:], uint64(len(s.raw)-searchArgs))
	if err := ioctl(f, iocTreeSearchV2, unsafe.Pointer(&s.raw[0])); err != nil {
		return nil, err
	}
	found := (*searchKey)(unsafe.Pointer(&s.raw[0])).items
	rest := s.raw[searchArgs:]
	out := make([]searchItem, 0, found)
	for range found {
		if len(rest) < searchHeader {
			return nil, fmt.Errorf("the kernel's answer is cut: %w", unix.EIO)
		}
		offset := binary.NativeEndian.Uint64(rest[16:])
		length := int(binary.NativeEndian.Uint32(rest[28:]))
		if len(rest)-searchHeader < length {
			return nil, fmt.Errorf("the kernel's answer is cut: %w", unix.EIO)
		}
		out = append(out, searchItem{offset, rest[searchHeader : searchHeader+length]})
		rest = rest[searchHeader+length:]
	}
	return out, nil
}

// parseExtent reads a struct btrfs_file_extent_item. ok is false for a hole and
// for data that lies in the tree itself.
func parseExtent(it searchItem) (e Extent, ok bool) {
	const (
		length       = 53
		regular      = 1 // BTRFS_FILE_EXTENT_REG
		preallocated = 2 // BTRFS_FILE_EXTENT_PREALLOC
	)
	b := it.body
	if len(b) < length {
		return Extent{}, false
	}
	kind := b[20]
	number := func(at int) int64 { return int64(binary.LittleEndian.Uint64(b[at:])) }
	e = Extent{
		FileOffset: int64(it.offset), Generation: binary.LittleEndian.Uint64(b), Preallocated: kind == preallocated,
		DiskStart: number(21), DiskBytes: number(29), Offset: number(37), Bytes: number(45),
	}
	return e, (kind == regular || kind == preallocated) && e.DiskStart != 0
}
