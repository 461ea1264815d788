// Package btrfs speaks to btrfs by ioctl: subvolumes, their snapshots, commits
// and the facts about a filesystem that decide whether it can hold a pool.
//
// It promises that each function is one operation of the kernel and takes open
// directories, never paths, so that what was checked is what is used. It does
// not know what a volume is, retries nothing and starts no program.
//
// The interface is that of include/uapi/linux/btrfs.h.
package btrfs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ioctl numbers of include/uapi/linux/btrfs.h, for 64-bit machines.
const (
	iocSync           = 0x9408
	iocTreeSearch     = 0xd0009411
	iocSnapCreateV2   = 0x50009417
	iocSubvolCreateV2 = 0x50009418
	iocSnapDestroy    = 0x5000940f
	iocFSInfo         = 0x8400941f
	iocGetSubvolInfo  = 0x81f8943c

	subvolReadOnly = 1 << 1

	// nameMax is BTRFS_SUBVOL_NAME_MAX + 1, what fits into both argument structs.
	nameMax = 255
)

// volArgsV2 is struct btrfs_ioctl_vol_args_v2.
type volArgsV2 struct {
	fd      int64
	transid uint64
	flags   uint64
	unused  [4]uint64
	name    [4040]byte
}

// volArgs is struct btrfs_ioctl_vol_args.
type volArgs struct {
	fd   int64
	name [4088]byte
}

// IsBtrfs reports whether an open file or directory is on btrfs.
func IsBtrfs(f *os.File) (bool, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return false, fmt.Errorf("statfs %s: %w", f.Name(), err)
	}
	return st.Type == unix.BTRFS_SUPER_MAGIC, nil
}

// CreateSubvolume makes an empty subvolume called name in dir.
func CreateSubvolume(dir *os.File, name string) error {
	args := volArgsV2{}
	if err := setName(args.name[:], name); err != nil {
		return err
	}
	if err := ioctl(dir, iocSubvolCreateV2, unsafe.Pointer(&args)); err != nil {
		return fmt.Errorf("create subvolume %s in %s: %w", name, dir.Name(), err)
	}
	return nil
}

// Snapshot makes a snapshot of the subvolume whose root is open as src, called
// name in dir. It flushes what is dirty in src and commits before it returns.
func Snapshot(src, dir *os.File, name string, readOnly bool) error {
	args := volArgsV2{fd: int64(src.Fd())}
	if readOnly {
		args.flags = subvolReadOnly
	}
	if err := setName(args.name[:], name); err != nil {
		return err
	}
	err := ioctl(dir, iocSnapCreateV2, unsafe.Pointer(&args))
	runtime.KeepAlive(src)
	if err != nil {
		return fmt.Errorf("snapshot subvolume %s as %s in %s: %w", src.Name(), name, dir.Name(), err)
	}
	return nil
}

// DestroySubvolume removes the subvolume called name in dir with all that is in
// it. The space comes back later, in the background: see Dropped.
func DestroySubvolume(dir *os.File, name string) error {
	args := volArgs{}
	if err := setName(args.name[:], name); err != nil {
		return err
	}
	if err := ioctl(dir, iocSnapDestroy, unsafe.Pointer(&args)); err != nil {
		return fmt.Errorf("destroy subvolume %s in %s: %w", name, dir.Name(), err)
	}
	return nil
}

// Commit makes everything that was done on the filesystem of f durable, the
// content of files that are still being written back included (syncfs(2)).
func Commit(f *os.File) error {
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("commit the filesystem of %s: %w", f.Name(), err)
	}
	return nil
}

// WakeCleaner commits and wakes the kernel thread that frees the space of
// destroyed subvolumes (BTRFS_IOC_SYNC does both, fs/btrfs/ioctl.c); left alone
// it looks for work about every 30 seconds.
func WakeCleaner(f *os.File) error {
	if err := ioctl(f, iocSync, nil); err != nil {
		return fmt.Errorf("wake the cleaner of the filesystem of %s: %w", f.Name(), err)
	}
	return nil
}

// SubvolumeID is the id of the subvolume whose root is open, which is never used
// again while the filesystem lives.
func SubvolumeID(root *os.File) (uint64, error) {
	info, err := subvolumeInfo(root)
	return info.ID, err
}

type subvolInfo struct {
	ID   uint64
	UUID [16]byte
}

func subvolumeInfo(root *os.File) (subvolInfo, error) {
	var raw [504]byte // struct btrfs_ioctl_get_subvol_info_args
	if err := ioctl(root, iocGetSubvolInfo, unsafe.Pointer(&raw)); err != nil {
		return subvolInfo{}, fmt.Errorf("read subvolume info of %s: %w", root.Name(), err)
	}
	const uuidOffset = 8 + 256 + 8 + 8 + 8 + 8
	out := subvolInfo{ID: binary.NativeEndian.Uint64(raw[:8])}
	copy(out.UUID[:], raw[uuidOffset:])
	return out, nil
}

// SubvolumeUUID is the UUID of the subvolume whose root is open. Unlike the
// device number that stat(2) shows, it survives a remount.
func SubvolumeUUID(root *os.File) (string, error) {
	info, err := subvolumeInfo(root)
	return formatUUID(info.UUID), err
}

// Dropped reports whether the kernel has finished to free the space of a
// destroyed subvolume: its root item is gone from the root tree.
func Dropped(f *os.File, subvolumeID uint64) (bool, error) {
	item, err := rootItem(f, subvolumeID)
	return item == nil, err
}

// LastSnapshot is the transaction in which a subvolume was last snapshotted, or,
// for a snapshot, made; 0 means never. The kernel takes every extent that is not
// newer for shared and copies it when it is overwritten, NOCOW or not, also when
// all snapshots are long gone (check_committed_ref, fs/btrfs/extent-tree.c).
func LastSnapshot(f *os.File, subvolumeID uint64) (uint64, error) {
	item, err := rootItem(f, subvolumeID)
	if err != nil {
		return 0, err
	}
	const offset = 160 + 5*8 // in struct btrfs_root_item, behind the inode item
	if len(item) < offset+8 {
		return 0, fmt.Errorf("subvolume %d on the filesystem of %s: %w", subvolumeID, f.Name(), unix.ENOENT)
	}
	return binary.LittleEndian.Uint64(item[offset:]), nil
}

// rootItem reads the item of a subvolume in the tree of roots, nil if there is
// none (BTRFS_IOC_TREE_SEARCH).
func rootItem(f *os.File, subvolumeID uint64) ([]byte, error) {
	const (
		rootTree    = 1   // BTRFS_ROOT_TREE_OBJECTID
		rootItemKey = 132 // BTRFS_ROOT_ITEM_KEY
		header      = 32  // sizeof(struct btrfs_ioctl_search_header)
	)
	args := struct { // struct btrfs_ioctl_search_args
		treeID                   uint64
		minObjectID, maxObjectID uint64
		minOffset, maxOffset     uint64
		minTransid, maxTransid   uint64
		minType, maxType         uint32
		items                    uint32
		unused                   uint32
		unused1                  [4]uint64
		buf                      [3992]byte
	}{
		treeID:      rootTree,
		minObjectID: subvolumeID, maxObjectID: subvolumeID,
		maxOffset: ^uint64(0), maxTransid: ^uint64(0),
		minType: rootItemKey, maxType: rootItemKey,
		items: 1,
	}
	if err := ioctl(f, iocTreeSearch, unsafe.Pointer(&args)); err != nil {
		return nil, fmt.Errorf("look for subvolume %d on the filesystem of %s: %w", subvolumeID, f.Name(), err)
	}
	if args.items == 0 {
		return nil, nil
	}
	length := binary.NativeEndian.Uint32(args.buf[header-4:])
	return args.buf[header : header+min(int(length), len(args.buf)-header)], nil
}

// FilesystemUUID is the UUID of the filesystem of f, by which /sys/fs/btrfs knows
// it.
func FilesystemUUID(f *os.File) (string, error) {
	var raw [1024]byte // struct btrfs_ioctl_fs_info_args
	if err := ioctl(f, iocFSInfo, unsafe.Pointer(&raw)); err != nil {
		return "", fmt.Errorf("read filesystem info of %s: %w", f.Name(), err)
	}
	var uuid [16]byte
	copy(uuid[:], raw[16:])
	return formatUUID(uuid), nil
}

func formatUUID(b [16]byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

func setName(dst []byte, name string) error {
	if name == "" || len(name) > nameMax || name == "." || name == ".." || bytes.ContainsAny([]byte(name), "/\x00") {
		return fmt.Errorf("subvolume name %q: %w", name, unix.EINVAL)
	}
	copy(dst, name)
	return nil
}

func ioctl(f *os.File, request uintptr, arg unsafe.Pointer) error {
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(arg))
		runtime.KeepAlive(f)
		switch {
		case errno == 0:
			return nil
		case errors.Is(errno, unix.EINTR):
			continue
		}
		return errno
	}
}
