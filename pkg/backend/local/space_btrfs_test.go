package local

import (
	"testing"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func TestCoverLeavesRoomForMetadata(t *testing.T) {
	const gib = volume.GiB
	for _, tt := range []struct {
		what      string
		c         chunks
		want, off volume.Bytes
	}{
		{"all unallocated: a fifth is for metadata, less a chunk", chunks{total: 100 * gib, unallocated: 100 * gib}, 80 * gib, gib},
		{"enough metadata is there already", chunks{total: 100 * gib, unallocated: 10 * gib, metaFree: 10 * gib}, 10 * gib, 0},
		{"free space in data chunks is no metadata", chunks{total: 100 * gib, dataFree: 50 * gib, metaFree: gib}, 4 * gib, 0},
		{"unallocated beside it is", chunks{total: 100 * gib, dataFree: 50 * gib, metaFree: gib, unallocated: 2 * gib}, 12 * gib, 0},
		{"nothing", chunks{total: 100 * gib}, 0, 0},
	} {
		got := tt.c.cover()
		if got > tt.want || got < tt.want-tt.off {
			t.Errorf("%s: %s, want %s less at most %s", tt.what, got, tt.want, tt.off)
		}
		if got > 0 && !tt.c.covers(got) {
			t.Errorf("%s: %s are not covered", tt.what, got)
		}
	}
}
