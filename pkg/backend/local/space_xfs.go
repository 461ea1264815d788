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

// xfsMetadataShare of what is written may go into metadata: see ADR 13.
const xfsMetadataShare = 20

// space implements store. statfs(2) counts what is promised to writes in flight
// as used, so nothing is taken off.
func (s *xfsStore) space() (space, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(s.pool.Fd()), &st); err != nil {
		return space{}, fmt.Errorf("statfs the pool: %w", err)
	}
	free := volume.Bytes(st.Bavail) * volume.Bytes(st.Bsize)
	return space{
		Total: volume.Bytes(st.Blocks) * volume.Bytes(st.Bsize),
		Free:  free,
		Cover: free - free/xfsMetadataShare,
	}, nil
}
