package local

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// cowExtSize is the unit in which new space is taken for overwritten blocks: one
// block, so that a write takes what it writes and no more. With a larger unit the
// space that is taken in advance was promised to somebody else (ADR 13).
const cowExtSize = 4096

const (
	// xfsMetadataShare: a twentieth of the free space is for metadata. Measured, when
	// every 4 KiB are an extent of their own: half a percent of what is written, and
	// 0.4 % of a volume's size for each copy of it. What the tree of shared blocks
	// needs XFS takes off the free space itself, for the worst case.
	xfsMetadataShare = 20
	// Each write in flight reserves some blocks for what it may have to split, and
	// gives them back: with 16 loop devices at work, 128 requests each, 40 MiB.
	maxXFSReserve   = 64 * volume.MiB
	xfsReserveShare = 64 // of the pool, if that is less
)

// space implements store. statfs(2) counts what is promised to writes in flight
// as used, so nothing more is taken off.
func (s *xfsStore) space() (space, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(s.pool.Fd()), &st); err != nil {
		return space{}, fmt.Errorf("statfs the pool: %w", err)
	}
	total, err := s.size() // statfs(2) leaves the log out
	if err != nil {
		return space{}, err
	}
	sp := space{Total: total, Free: volume.Bytes(st.Bavail) * volume.Bytes(st.Bsize)}
	sp.Cover = max(0, sp.Free-sp.Free/xfsMetadataShare-min(maxXFSReserve, sp.Total/xfsReserveShare))
	return sp, nil
}
