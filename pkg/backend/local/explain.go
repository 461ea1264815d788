package local

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/btrfs"
	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// SpaceUse is where the space of a pool is that is not free, in bytes.
type SpaceUse struct {
	// Data is what volumes and snapshots hold. Of it, SnapshotsOnly is what would be
	// free without any snapshot, and Dead what nobody can read any more: a few live
	// blocks pin the whole extent that they were written in.
	Data          volume.Bytes `json:"data"`
	SnapshotsOnly volume.Bytes `json:"snapshotsOnly"`
	Dead          volume.Bytes `json:"dead"`
	// Ballast keeps records writable on a full pool. Trash is what was deleted and
	// is not free yet.
	Ballast volume.Bytes `json:"ballast"`
	Trash   volume.Bytes `json:"trash"`
	// Metadata is what the filesystem needs to know where all that is.
	Metadata volume.Bytes `json:"metadata"`
	// Other is the rest: the driver's records, what is being freed, what the
	// filesystem has set aside.
	Other volume.Bytes `json:"other"`
}

// ObjectStatus is what driver pool status shows of a volume or a snapshot. Sizes
// are in bytes.
type ObjectStatus struct {
	ID   volume.ID `json:"id"`
	Name string    `json:"name"`
	// Kind is volume or snapshot. Of is the volume that a snapshot was taken of,
	// which may be gone.
	Kind string       `json:"kind"`
	Of   volume.ID    `json:"of,omitempty"`
	Size volume.Bytes `json:"size"`
	// Used is what has been written and has a place in the pool; Exclusive is what
	// would be free if this alone were deleted.
	Used      volume.Bytes `json:"used"`
	Exclusive volume.Bytes `json:"exclusive"`
	// Pinned is what only snapshots of this volume hold: it would be free without
	// them.
	Pinned volume.Bytes `json:"pinned"`
	// Dead is the space that nobody can read in the extents that this holds.
	Dead volume.Bytes `json:"dead"`
	// Promised is what the volume may still need of the pool.
	Promised  volume.Bytes `json:"promised"`
	Extents   int          `json:"extents"`
	Snapshots int          `json:"snapshots"`
	// Device is the loop device of an attached volume.
	Device string `json:"device,omitempty"`
}

// mapper is a store that can say where an image lies on the device.
type mapper interface {
	// mapped calls fn for each part of the image, in order.
	mapped(dir *os.File, fn func(physical) error) error
	// wholeExtents: an extent stays allocated as long as anybody refers to a part of
	// it. Else each block is free as soon as nobody does.
	wholeExtents() bool
	// metadata is what the filesystem's own trees take; ok is false if it does not
	// tell.
	metadata() (n volume.Bytes, ok bool, err error)
}

// explain walks the extents of everything in the pool. What is written meanwhile
// may be counted or not.
func (p *pool) explain(ctx context.Context, st *PoolStatus) error {
	m, ok := p.store.(mapper)
	if !ok {
		return fmt.Errorf("%w: nobody can say where the space of a pool on %s is", volume.ErrPrecondition, st.Filesystem)
	}
	// What is still in memory has no place yet.
	if err := p.store.commit(); err != nil {
		return err
	}
	objects := p.inOrder()
	trash, err := p.trashDirs()
	if err != nil {
		return err
	}
	var dirs []string
	for _, o := range objects {
		dirs = append(dirs, o.dir)
	}
	a, err := p.walk(ctx, m, append(dirs, trash...))
	if err != nil {
		return err
	}
	st.Use, err = p.use(m, a, objects, st)
	if err != nil {
		return err
	}
	st.Objects, err = p.describe(a, objects)
	return err
}

// inOrder are the objects in order of kind and id, volumes first: the number of
// one is its owner number.
func (p *pool) inOrder() []object {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []object
	for _, o := range p.objects {
		out = append(out, *o)
	}
	slices.SortFunc(out, func(x, y object) int { return -cmp.Compare(x.ID, y.ID) }) // vol. before snap.
	return out
}

func (p *pool) trashDirs() ([]string, error) {
	entries, err := fs.ReadDir(p.root.FS(), trashDir)
	if err != nil {
		return nil, fmt.Errorf("list the trash: %w", err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, trashDir+"/"+e.Name())
	}
	return out, nil
}

// walk adds up the extents below each of these directories; what is deleted
// meanwhile has none.
func (p *pool) walk(ctx context.Context, m mapper, dirs []string) (*accounting, error) {
	a := newAccounting()
	var parts []owned
	for owner, name := range dirs {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("look at extents: %w", context.Cause(ctx))
		}
		dir, err := p.openObject(name)
		if err == nil {
			err = m.mapped(dir, func(part physical) error {
				if m.wholeExtents() {
					a.add(owner, part)
				} else {
					parts = append(parts, owned{owner, part})
				}
				return nil
			})
			err = errors.Join(err, dir.Close())
		}
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("look at the extents of %s: %w", name, err)
		}
	}
	for _, part := range cut(parts) {
		a.add(part.owner, part.physical)
	}
	return a, nil
}

// use adds up by kind of owner. The owners after the objects are in the trash.
func (p *pool) use(m mapper, a *accounting, objects []object, st *PoolStatus) (*SpaceUse, error) {
	u := &SpaceUse{}
	inTrash := func(o int) bool { return o >= len(objects) }
	for _, s := range a.bySet() {
		alive := slices.DeleteFunc(slices.Clone(s.owners), inTrash)
		switch {
		case len(alive) == 0:
			u.Trash += volume.Bytes(s.bytes)
			continue
		case !slices.ContainsFunc(alive, func(o int) bool { return objects[o].ID.Kind() == volume.KindVolume }):
			u.SnapshotsOnly += volume.Bytes(s.bytes)
		}
		u.Data += volume.Bytes(s.bytes)
		u.Dead += volume.Bytes(s.dead)
	}
	var ballast unix.Stat_t
	if err := unix.Fstatat(int(p.dir.Fd()), ballastFile, &ballast, unix.AT_SYMLINK_NOFOLLOW); err == nil {
		u.Ballast = volume.Bytes(ballast.Blocks) * statBlock
	}
	metadata, told, err := m.metadata()
	if err != nil {
		return nil, err
	}
	rest := max(0, st.Size-st.Free-u.Data-u.Trash-u.Ballast)
	if !told {
		u.Metadata = rest
		return u, nil
	}
	u.Metadata = metadata
	u.Other = max(0, rest-metadata)
	return u, nil
}

func (p *pool) describe(a *accounting, objects []object) ([]ObjectStatus, error) {
	loops, err := loop.List()
	if err != nil {
		return nil, err
	}
	devices := map[string]string{}
	for _, l := range loops {
		devices[l.Tag] = fmt.Sprintf("/dev/loop%d", l.Index)
	}
	families := map[volume.ID]int{}
	for _, o := range objects {
		if o.SnapshotOf != "" {
			families[o.SnapshotOf]++
		}
	}
	pinned := pinnedBySnapshots(a, objects)
	out := make([]ObjectStatus, 0, len(objects))
	for i, h := range a.holdings(len(objects)) {
		o := objects[i]
		s := ObjectStatus{
			ID: o.ID, Name: strings.ToValidUTF8(o.Name, "?"), Kind: "volume", Of: o.SnapshotOf, Size: o.Size,
			Used: volume.Bytes(h.used), Exclusive: volume.Bytes(h.exclusive), Dead: volume.Bytes(h.dead),
			Extents: h.extents, Snapshots: families[o.ID], Pinned: pinned[o.ID], Device: devices[tagOf(o.ID)],
		}
		if o.ID.Kind() == volume.KindSnapshot {
			s.Kind = "snapshot"
		} else if s.Promised, err = p.chargeOf(o, false); err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

// pinnedBySnapshots is, by volume, what is held by snapshots of it and by nobody
// else.
func pinnedBySnapshots(a *accounting, objects []object) map[volume.ID]volume.Bytes {
	out := map[volume.ID]volume.Bytes{}
	for _, s := range a.bySet() {
		of := volume.ID("")
		for i, owner := range s.owners {
			if owner >= len(objects) || objects[owner].SnapshotOf == "" || i > 0 && objects[owner].SnapshotOf != of {
				of = ""
				break
			}
			of = objects[owner].SnapshotOf
		}
		if of != "" {
			out[of] += volume.Bytes(s.bytes)
		}
	}
	return out
}

// sourceOf is what is mounted where an open directory is, for people to read.
func sourceOf(dir *os.File) string {
	on, err := mount.Containing(dir.Name())
	if err != nil {
		return ""
	}
	return on.Source
}

func (s *btrfsStore) mapped(dir *os.File, fn func(physical) error) error {
	img, err := openAt(dir, dataDir+"/"+imageFile, unix.O_RDONLY)
	if err != nil {
		return err
	}
	defer img.Close()
	return btrfs.FileExtents(img, func(e btrfs.Extent) error {
		return fn(physical{start: e.DiskStart, bytes: e.DiskBytes, offset: e.Offset, live: e.Bytes})
	})
}

func (s *btrfsStore) wholeExtents() bool { return true }

func (s *btrfsStore) metadata() (volume.Bytes, bool, error) {
	r := counters{store: s}
	n := r.get("metadata/disk_used") + r.get("system/disk_used")
	return n, true, r.err
}
