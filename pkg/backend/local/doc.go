// Package local is the engine that keeps volumes in pools on this machine: a
// directory on btrfs or XFS, or a pool image that it makes and mounts itself.
//
// # Layout of a pool
//
//	holdfast.json                 marker: format version, pool id, filesystem
//	pool.lock                     held (flock) by the one driver that uses the pool
//	volumes/<id>/volume.json      the record
//	volumes/<id>/data/disk.img    the volume: a sparse image; on btrfs NOCOW and data/ a subvolume
//	snapshots/<id>/snapshot.json  the same, data/ read-only; on XFS the image immutable
//	.staging/ .trash/             under construction, being deleted
//	.quarantine/                  what was found and belongs to nobody: never deleted
//	ballast                       space that keeps records writable on a full pool
//
// # Promises
//
// Every object is built in .staging, synced, and renamed into place by one
// rename; deletion renames it into .trash first. So an object exists completely
// or not at all, and a start after a crash has only .staging to empty and .trash
// to go on with. The pool describes itself; the index in memory can always be
// rebuilt from it.
//
// An image is attached at most once per machine: the loop device keeps the open
// file on which this package took flock(2), so the lock lives exactly as long as
// the loop, whoever dies.
//
// A pool that was seen once is registered in the state directory and never made
// anew. If it is missing, calls for it are volume.ErrUnavailable and the other
// pools go on.
//
// # Locks, in order
//
// slot.opening (one opening of a pool at a time), Backend.mu (what is being
// changed), slot.mu (which pool is open), pool.trashMu (removal of deleted data),
// pool.mu (its index and promises). No system call that can take long is made
// under pool.mu, but for the stat(2) of images that measures promises.
//
// # What it refuses
//
// It never formats anything but an image that the same call made, never deletes
// what it cannot read, and never attaches an image that is shorter than its
// record.
package local
