package local

import (
	"fmt"
	"testing"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// hungry are n volumes that may each need so much.
func hungry(n int, need volume.Bytes) appetite {
	a := appetite{frozen: map[volume.ID]volume.Bytes{}}
	for i := range n {
		a.frozen[volume.ID(fmt.Sprint(i))] = need
	}
	return a
}

func TestAFullPoolHasNoReserveForVolumesThatNeedNothing(t *testing.T) {
	for _, over := range []bool{false, true} {
		if r := hungry(100, 0).reserve(leastSpeed, over); r != 0 {
			t.Errorf("overcommitted %t: %s", over, r)
		}
	}
}

func TestTheReserveNeverExceedsWhatMayBeNeededWhileNothingIsOvercommitted(t *testing.T) {
	for _, need := range []volume.Bytes{volume.MiB, 50 * volume.MiB, volume.GiB, volume.TiB} {
		for _, n := range []int{1, 10, 1000} {
			a := hungry(n, need)
			a.blocks = 7 * volume.GiB
			if r := a.reserve(8*leastSpeed, false); r > need*volume.Bytes(n)+a.blocks {
				t.Errorf("%d volumes that need %s each: %s", n, need, r)
			}
		}
	}
}

func TestTheReserveIsEnoughForWhatTheFreezeWritesOut(t *testing.T) {
	for _, n := range []int{1, 5, 16, 64, 1000} {
		r := hungry(n, volume.TiB).reserve(leastSpeed, true)
		if dirty := volume.Bytes(n) * boundOf(n); r < 2*dirty {
			t.Errorf("%d volumes: a reserve of %s for %s of dirty memory", n, r, dirty)
		}
	}
}

func TestBlockVolumesAreCoveredWhole(t *testing.T) {
	a := hungry(1, volume.TiB)
	without := a.reserve(leastSpeed, true)
	a.blocks = 20 * volume.GiB
	if with := a.reserve(leastSpeed, true); with-without != a.blocks {
		t.Errorf("%s for %s", with-without, a.blocks)
	}
}

func TestDirtyMemoryNeverExceedsWhatThereIsRoomFor(t *testing.T) {
	const memory = 64 * volume.GiB
	for _, n := range []int{1, 3, 16, 1000} {
		reserve := hungry(n, volume.TiB).reserve(leastSpeed, true)
		for room := reserve; room < 100*volume.TiB; room += room / 3 {
			limit := dirtyLimit(room, reserve, n, memory)
			switch {
			case limit == 0 && (room-reserve)/4 < memory*volume.Bytes(n):
				t.Errorf("%d volumes, room for %s: no bound", n, room)
			case limit*volume.Bytes(n) > max(room-reserve, reserve):
				t.Errorf("%d volumes, room for %s: %s each", n, room, limit)
			}
		}
	}
	if limit := dirtyLimit(volume.TiB, volume.GiB, 2, volume.GiB); limit != 0 {
		t.Errorf("a pool with much room is bounded to %s", limit)
	}
}

func TestTheGuardLooksInTime(t *testing.T) {
	const reserve = volume.GiB
	for room := volume.Bytes(0); room < 100*volume.GiB; room += 100 * volume.MiB {
		wait := watchAgain(room, reserve, leastSpeed)
		written := volume.Bytes(wait.Seconds() * float64(leastSpeed))
		if wait > watchNear && room-written < reserve {
			t.Errorf("with room for %s it looks after %s, when %s may be written", room, wait, written)
		}
		if wait < watchNear || wait > watchFar {
			t.Errorf("with room for %s it looks after %s", room, wait)
		}
	}
	if wait := watchAgain(0, 0, leastSpeed); wait != watchIdle {
		t.Errorf("with nothing to guard it looks after %s", wait)
	}
}
