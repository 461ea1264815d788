package loop_test

import (
	"testing"

	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/test/roottest"
)

func TestDirtyMemoryIsBoundedAndTheBoundTakenAway(t *testing.T) {
	roottest.Require(t)
	dev := attach(t, loop.Config{Backing: newImage(t, 64*volume.MiB), Tag: newTag(t), BlockSize: 4096})
	for _, limit := range []volume.Bytes{32 * volume.MiB, 8 * volume.MiB, 0, 128 * volume.MiB, 1024 * volume.TiB, 0} {
		if err := dev.SetDirtyLimit(limit); err != nil {
			t.Fatal(err)
		}
		have, err := dev.DirtyLimit()
		if err != nil {
			t.Fatal(err)
		}
		want := limit
		if limit == 1024*volume.TiB {
			want = 0 // more than the memory is no bound
		}
		if have > want*5/4 || have < want*3/4 {
			t.Errorf("asked for %s, got %s", limit, have)
		}
	}
}
