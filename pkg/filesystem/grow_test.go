package filesystem_test

import (
	"testing"

	"github.com/holdfast-csi/holdfast/pkg/filesystem"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func TestXFSBeyondEightTimesItsBirthSizeHasGrownTooFar(t *testing.T) {
	for _, c := range []struct {
		birth, size volume.Bytes
		want        bool
	}{
		{volume.GiB, volume.GiB, false},
		{volume.GiB, 8 * volume.GiB, false},
		{volume.GiB, 8*volume.GiB + 4096, true},
		{volume.GiB, 64 * volume.TiB, true},
		{0, volume.TiB, false},
	} {
		if got := filesystem.XfsGrownTooFar(c.birth, c.size); got != c.want {
			t.Errorf("XfsGrownTooFar(%s, %s) = %t", c.birth, c.size, got)
		}
	}
}
