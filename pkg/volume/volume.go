package volume

import "time"

// Mode is how a pod sees a volume.
type Mode string

// The modes of a volume. A volume never changes its mode.
const (
	ModeFilesystem Mode = "filesystem"
	ModeBlock      Mode = "block"
)

// FSType is the filesystem inside a volume; "" in a block volume.
type FSType string

// The filesystems that a volume can have.
const (
	Ext4 FSType = "ext4"
	XFS  FSType = "xfs"
)

// Format is how the content of a volume is laid out. It is fixed at birth and
// inherited by every snapshot and clone.
type Format struct {
	Mode   Mode   `json:"mode"`
	FSType FSType `json:"fsType,omitempty"`
	// SectorSize is the logical block size in bytes of the volume's device:
	// 4096, or 512 where a block volume asked for it.
	SectorSize int `json:"sectorSize"`
	// InodeRatio is the bytes of ext4 per inode; 0 means mkfs's default.
	InodeRatio int `json:"inodeRatio,omitempty"`
}

// Source is what a volume is made from. At most one field is set; the zero
// value means an empty volume.
type Source struct {
	Snapshot ID `json:"snapshot,omitempty"`
	Volume   ID `json:"volume,omitempty"`
}

// IsZero reports whether the volume is made from nothing.
func (s Source) IsZero() bool { return s == Source{} }

// Spec asks for a volume.
type Spec struct {
	// Name is the caller's name for the volume; the same name means the same
	// volume. Never empty.
	Name string
	// Pool is the name of the pool to use; "" means the pool of the source, else
	// the only pool, else the one named "default".
	Pool string
	// Allowed are the pools that the volume may be in, by topology; empty means
	// any.
	Allowed []PoolID
	// Size is the least size in bytes; Limit is the largest, 0 means none.
	Size, Limit Bytes
	Format      Format
	Source      Source
}

// Volume is a volume that exists.
type Volume struct {
	ID      ID
	Name    string
	Size    Bytes
	Format  Format
	Source  Source
	Created time.Time
	// BirthSize is the size at which the filesystem was made (of the first
	// ancestor, for a clone). XFS keeps the allocation groups it was born with.
	BirthSize Bytes
}

// SnapshotSpec asks for a snapshot.
type SnapshotSpec struct {
	// Name is the caller's name for the snapshot. Never empty.
	Name   string
	Source ID
	// Consistency says what is promised about a mounted filesystem.
	Consistency Consistency
}

// Consistency is what a snapshot promises about a filesystem in use.
type Consistency string

const (
	// ConsistencyFilesystem promises that everything that write(2) accepted before the call is in
	// the snapshot, and the filesystem inside is clean.
	ConsistencyFilesystem Consistency = "filesystem"
	// ConsistencyCrash is as after a power cut: the filesystem is not frozen.
	ConsistencyCrash Consistency = "crash"
)

// Snapshot is a snapshot that exists.
type Snapshot struct {
	ID          ID
	Name        string
	Source      ID
	Size        Bytes // of the source when the snapshot was taken
	Format      Format
	Consistency Consistency
	Created     time.Time
	BirthSize   Bytes
}

// Pool is a pool as the node sees it.
type Pool struct {
	ID   PoolID
	Name string
	// Available says whether the pool can be used now; Reason why not.
	Available bool
	Reason    string
}
