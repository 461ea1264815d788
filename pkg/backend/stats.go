package backend

import (
	"time"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// PoolStats is a pool in figures, as of the last look. A Pool that is not available
// has figures of the time when it was, or none.
type PoolStats struct {
	volume.Pool
	// Looked is when the figures were taken; zero if they never were.
	Looked time.Time
	// Filesystem is what the pool is on, such as "btrfs".
	Filesystem string
	// Size of the pool's filesystem, Free of it, Promised to volumes of what is
	// free, and Room, the largest volume that would be admitted. Bytes.
	Size, Free, Promised, Room volume.Bytes
	// Overcommit is how often the size may be promised: 1 means never more than
	// there is.
	Overcommit float64
	// Snapshots is how many there are; Damaged counts volumes and snapshots that are
	// not served; Trash counts what was deleted and is not freed yet.
	Snapshots, Damaged, Trash int
	// Image says that the pool is an image, and ImageDirectIO whether its loop
	// device does direct I/O.
	Image, ImageDirectIO bool
	Conditions           []volume.Condition
	Volumes              []VolumeStats
	Counters             PoolCounters
}

// VolumeStats is a volume in figures.
type VolumeStats struct {
	ID volume.ID
	// Size of the volume, Used of it in the pool, InPlace of that what can be
	// overwritten without new space, and Charge, what the volume may still need
	// from the pool. Bytes.
	Size, Used, InPlace, Charge volume.Bytes
	// Extents of the image; 0 if they were not counted yet.
	Extents int
	// Snapshots that were taken of the volume and still exist.
	Snapshots int
	// Attached is the number of loop devices on the image, and DirectIO whether all
	// of them do direct I/O.
	Attached   int
	DirectIO   bool
	Conditions []volume.Condition
}

// PoolCounters count from the start of the process.
type PoolCounters struct {
	// Freezes of a filesystem for a snapshot or a clone, in seconds.
	Freezes Histogram
	// ThawedLate counts freezes that took too long and were ended; ThawedForOthers
	// those of another driver that had died or hung, and those that another party
	// ended, such as the watchdog.
	ThawedLate, ThawedForOthers uint64
	// TrashEmptied counts deleted volumes and snapshots whose space came back.
	TrashEmptied uint64
	// Refused counts volumes, snapshots and growth that the pool had no room for.
	Refused uint64
	// Trimmed is bytes that volumes gave back because nothing in them uses them.
	Trimmed uint64
	// GuardFreezes of a filesystem because the pool was nearly full, in seconds.
	GuardFreezes Histogram
}

// Histogram is a distribution of seconds.
type Histogram struct {
	Count uint64
	Sum   float64
	// Buckets counts what was at most so many seconds.
	Buckets map[float64]uint64
}
