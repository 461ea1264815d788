package backend

import (
	"context"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// Capabilities is what an engine can do, as data; the CSI capabilities are
// computed from it.
type Capabilities struct {
	Snapshots bool // CreateSnapshot and DeleteSnapshot, and volumes from snapshots
	Clones    bool // volumes from volumes
	Expansion bool // ExpandVolume, attached or not
	// MultiNode says that a volume can be attached on several machines at once
	// to be read.
	MultiNode bool
}

// Capacity is the room in one or more pools, in bytes.
type Capacity struct {
	// Available is what can still be promised to new volumes in total.
	Available volume.Bytes
	// MaxVolume is the largest volume that CreateVolume would accept now.
	MaxVolume volume.Bytes
}

// Provisioner makes, copies, grows and removes volumes and snapshots.
type Provisioner interface {
	// Capabilities never changes during the life of the engine.
	Capabilities() Capabilities

	// Pools are all pools that were configured, the unavailable ones too. It is
	// answered from memory.
	Pools() []volume.Pool

	// Capacity of the available pools of this name ("" means any) among allowed
	// (empty means any). An unavailable or unknown pool has none; that is not an
	// error.
	Capacity(ctx context.Context, pool string, allowed []volume.PoolID) (Capacity, error)

	// CreateVolume makes a volume of the smallest size that volume.Fit allows for
	// spec, the format and the source. A filesystem volume is formatted; a volume
	// with a source has its content, and its filesystem may be smaller than the
	// volume (the node grows it when it stages).
	//
	// It is ErrInvalid for a format that contradicts the source or for an unknown
	// pool name, ErrNotFound if the source does not exist, ErrExists if the name
	// is taken by a different volume (in whatever pool), ErrOutOfRange if the
	// limits allow no size, also when they forbid the size of the source,
	// ErrNoSpace if no allowed pool can promise the space or the source is in no
	// allowed pool, ErrUnavailable if the pool is away.
	CreateVolume(ctx context.Context, spec volume.Spec) (volume.Volume, error)

	// DeleteVolume removes a volume; its snapshots and clones stay. A volume that
	// does not exist is success. It is ErrInUse while the volume is attached,
	// with the holders named, and ErrUnavailable if its pool is away.
	DeleteVolume(ctx context.Context, id volume.ID) error

	// ExpandVolume makes a volume at least size bytes large, attached or not.
	// One that is large enough already stays as it is. limit 0 means none. It is
	// ErrNotFound, ErrInvalid, ErrOutOfRange (the limit forbids it, or the pool
	// cannot promise the space: CSI wants a code that lets Kubernetes recover), or
	// ErrUnavailable.
	ExpandVolume(ctx context.Context, id volume.ID, size, limit volume.Bytes) (volume.Volume, error)

	// Volume finds a volume. It is ErrNotFound or ErrUnavailable.
	Volume(ctx context.Context, id volume.ID) (volume.Volume, error)

	// Volumes are the volumes of all available pools, in order of ID.
	Volumes(ctx context.Context) ([]volume.Volume, error)

	// CreateSnapshot takes a snapshot of a volume, attached or not. With
	// ConsistencyFilesystem a mounted filesystem is frozen for the instant of the
	// snapshot and thawed again whatever happens; what was written and closed on
	// a raw block volume is in the snapshot, synced or not.
	//
	// It is ErrNotFound (the volume), ErrExists, ErrNoSpace or ErrUnavailable.
	CreateSnapshot(ctx context.Context, spec volume.SnapshotSpec) (volume.Snapshot, error)

	// DeleteSnapshot removes a snapshot; volumes made from it stay. One that does
	// not exist is success. ErrUnavailable if its pool is away.
	DeleteSnapshot(ctx context.Context, id volume.ID) error

	// Snapshot finds a snapshot. It is ErrNotFound or ErrUnavailable.
	Snapshot(ctx context.Context, id volume.ID) (volume.Snapshot, error)

	// Snapshots are the snapshots of all available pools, in order of ID.
	Snapshots(ctx context.Context) ([]volume.Snapshot, error)

	// Health is what is wrong with a volume now, or was a moment ago, in the order of
	// volume.Conditions; nil if it is well. What cannot be looked at in a moment
	// is Inaccessible. So is every volume of a pool that is configured and away,
	// whether it exists or not, for nobody can tell. It is ErrNotFound, or
	// ErrUnavailable for a pool that was never here. It changes nothing.
	Health(ctx context.Context, id volume.ID) ([]volume.Condition, error)

	// Unhealthy are the volumes with something wrong, as of the last look, in order
	// of ID. Those of a pool that was away from the start are not known. It is
	// answered from memory.
	Unhealthy(ctx context.Context) ([]volume.Health, error)
}

// Attacher makes volumes appear on this machine as block devices.
type Attacher interface {
	// Pools are the pools whose volumes this machine can attach.
	Pools() []volume.Pool

	// Volume finds a volume. It is ErrNotFound or ErrUnavailable.
	Volume(ctx context.Context, id volume.ID) (volume.Volume, error)

	// Attach makes the volume's device appear, or finds the one that is there;
	// there is never more than one. The caller owns the Device and closes it.
	//
	// The device of a filesystem volume may vanish with its last user: keep the
	// Device open until the filesystem is mounted. The device of a block volume
	// stays until Detach or until the machine stops.
	//
	// It is ErrNotFound, ErrUnavailable, ErrBusy if the device is just coming or
	// going, ErrDataLoss if the image is shorter than the volume, or
	// ErrPrecondition if the kernel cannot give the device the properties it must
	// have.
	Attach(ctx context.Context, id volume.ID) (*Device, error)

	// Lookup finds the device of a volume if it is attached. The caller owns the
	// Device and closes it.
	Lookup(ctx context.Context, id volume.ID) (dev *Device, ok bool, err error)

	// Refresh gives an attached device the size of its volume. One that is not
	// attached is success. It is ErrNotFound (the volume), ErrUnavailable, or
	// ErrBusy if the device is just going.
	Refresh(ctx context.Context, id volume.ID) error

	// Detach writes out what the device still holds and lets it go. If somebody
	// else on the machine still has it open (another mount namespace), Detach
	// succeeds, the device goes with its last user, and the next Attach finds the
	// same one. A volume that is not attached, or does not exist, is success.
	Detach(ctx context.Context, id volume.ID) error

	// Health is that of Provisioner, seen from this machine.
	Health(ctx context.Context, id volume.ID) ([]volume.Condition, error)

	// StorageHealth is what is wrong with the pools, as of the last look: one entry
	// for each of Pools, in the same order. A pool that is not available is
	// Inaccessible. It is answered from memory.
	StorageHealth(ctx context.Context) ([]volume.PoolHealth, error)

	// Headroom is how much all volumes of this pool together can still be given
	// before the pool is full, in bytes. ok is false if the engine has promised each
	// of them all of its size. It is answered from memory.
	Headroom(id volume.ID) (left volume.Bytes, ok bool)
}
