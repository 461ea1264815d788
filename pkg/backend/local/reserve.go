package local

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// What the guard keeps free, so that freezing comes in time. All of it is an
// allowance for what may still be written between a measurement and the moment in
// which nothing is written any more; docs/adr/0014 has the measurements.
const (
	// dirtyBound is how much written data one volume may have in memory while its
	// pool is nearly full; with many volumes they share dirtyBudget, but none gets
	// less than dirtyLeast.
	dirtyBound  = 32 * volume.MiB
	dirtyBudget = 512 * volume.MiB
	dirtyLeast  = 8 * volume.MiB
	// recordsReserve is for the pool's own records and for the metadata of
	// deleting.
	recordsReserve = 32 * volume.MiB
	// guardLatency is from a measurement to the freeze that it leads to.
	guardLatency = 60 * time.Millisecond
	// leastSpeed is, in bytes per second, what writers are trusted to do before
	// they were seen to do more.
	leastSpeed = volume.GiB
)

// appetite is what the volumes of a pool may still need, as the guard sees it.
type appetite struct {
	// frozen is, for each volume that can be frozen, what it may still need.
	frozen map[volume.ID]volume.Bytes
	// blocks is what all raw block volumes may still need: they cannot be frozen,
	// and so are never overcommitted, attached or not.
	blocks volume.Bytes
}

// boundOf is the bound on dirty memory for each of n volumes on a pool that is
// nearly full.
func boundOf(n int) volume.Bytes {
	return min(max(dirtyBudget/volume.Bytes(max(n, 1)), dirtyLeast), dirtyBound)
}

// reserve is what must be covered (space.Cover, which knows the metadata of the
// pool) or the volumes are frozen, if they write at most speed bytes a second: what
// the freeze itself writes out, twice the bound of each volume, for a filesystem's
// metadata waits in memory too; what is written until the freeze takes effect; and
// what block volumes may need. No volume is allowed for with more than it may need.
// So with volumes that need nothing more, however full the pool, there is no
// reserve: they are not frozen.
func (a appetite) reserve(speed volume.Bytes, overcommitted bool) volume.Bytes {
	if len(a.frozen) == 0 {
		return 0
	}
	bound := boundOf(len(a.frozen))
	var flush, owed volume.Bytes
	for _, need := range a.frozen {
		owed += need
		flush += min(2*bound, need)
	}
	if owed == 0 {
		return 0
	}
	late := speed * volume.Bytes(guardLatency) / volume.Bytes(time.Second)
	r := min(flush+late, owed) + a.blocks
	if overcommitted {
		// Else the promises keep clear of it by themselves.
		r += recordsReserve
	}
	return r
}

// thawAbove is how much must be covered before what was frozen at this reserve is
// thawed: more, so that it does not come and go with every write.
func thawAbove(reserve volume.Bytes) volume.Bytes {
	return reserve + max(reserve/4, 64*volume.MiB)
}

// isNear says whether the guard must be ready to freeze at any instant.
func isNear(cover, reserve volume.Bytes) bool {
	return reserve > 0 && cover < 2*reserve+256*volume.MiB
}

// dirtyLimit is the bound on the dirty memory of each of n volumes while this much
// is covered: a quarter of the distance to the reserve, shared. So a pool with much
// room pays nothing for the guard. It is 0, no bound, if that is more than all the
// memory that can be dirty.
func dirtyLimit(cover, reserve volume.Bytes, n int, memory volume.Bytes) volume.Bytes {
	share := max(cover-reserve, 0) / 4 / volume.Bytes(max(n, 1))
	if share >= memory {
		return 0
	}
	limit := boundOf(n)
	for limit*2 <= share { // in powers of two: it is not written for every change
		limit *= 2
	}
	return limit
}

// The guard measures the more often the nearer the reserve is.
const (
	watchNear = 10 * time.Millisecond
	watchFar  = 5 * time.Second
	watchIdle = 500 * time.Millisecond // no volume needs anything
)

// watchAgain is when to measure next: when a quarter of the distance to the reserve
// could have been written. The reserve itself may grow meanwhile, when a volume
// comes to need more; an attachment wakes the guard.
func watchAgain(cover, reserve, speed volume.Bytes) time.Duration {
	if reserve == 0 {
		return watchIdle
	}
	const growth = 256 * volume.MiB
	away := time.Duration(float64(max(cover-reserve-growth, 0)) / float64(4*speed) * float64(time.Second))
	return min(max(away, watchNear), watchFar)
}

// dirtyMemory is more than can be dirty on this machine: by default the kernel
// stops writers at a fifth of the memory (vm.dirty_ratio).
func dirtyMemory() (volume.Bytes, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0, fmt.Errorf("read the size of the memory: %w", err)
	}
	return volume.Bytes(info.Totalram) * volume.Bytes(info.Unit) / 4, nil
}
