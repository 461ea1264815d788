package disk

import (
	"io"
	"slices"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// containers are the signatures of what is made of devices, and shows a filesystem
// of its own: mounting one of its parts would change that part alone.
var containers = []string{raidMember, biosRAIDMember, "a bcache device", "an LVM physical volume", "an encrypted volume (LUKS)"}

const (
	raidMember     = "a member of a Linux RAID"
	biosRAIDMember = "a member of a BIOS RAID"
)

// memberOf says what a device with a filesystem at its start is, if that is only a
// part of something; else it is "". Members of a RAID whose metadata is at the end
// (md 0.90 and 1.0, BIOS RAID) show the whole filesystem.
//
// What lies inside the filesystem was written through it, by a pod perhaps, and
// does not count.
func memberOf(r io.ReaderAt, size volume.Bytes, f Filesystem) (string, error) {
	for _, s := range signatures {
		if !slices.Contains(containers, s.what) {
			continue
		}
		for _, at := range s.at {
			if at < 0 {
				at += int64(size)
				if at < int64(f.Size) {
					continue
				}
			}
			if ok, err := has(r, size, at, s.magic); ok || err != nil {
				return s.what, err
			}
		}
	}
	for _, at := range raidEnds(size) {
		if at < int64(f.Size) {
			continue
		}
		if ok, err := has(r, size, at, raidMagic); ok || err != nil {
			return raidMember, err
		}
	}
	return "", nil
}

// raidEnds is where metadata 1.0 and 0.90 lie at the end of a device, aligned
// (drivers/md/md.c, super_1_load; include/uapi/linux/raid/md_p.h,
// MD_NEW_SIZE_SECTORS).
func raidEnds(size volume.Bytes) []int64 {
	return []int64{(int64(size) - 8<<10) &^ (4<<10 - 1), int64(size)&^(64<<10-1) - 64<<10}
}
