package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// PoolStatus is what driver pool status shows of a pool. Sizes are in bytes.
type PoolStatus struct {
	Name string        `json:"name"`
	ID   volume.PoolID `json:"id"`
	// Kind is directory, image or disk.
	Kind string `json:"kind"`
	// Dir is what --pool says.
	Dir string `json:"dir"`
	// Source is what is mounted there, as the kernel calls it now.
	Source         string `json:"source"`
	Filesystem     string `json:"filesystem"`
	FilesystemUUID string `json:"filesystemUUID"`
	// Available says whether the pool is here; Reason why not.
	Available bool   `json:"available"`
	Reason    string `json:"reason"`
	// Volumes and Snapshots are counts; Damaged counts objects that are not
	// served because their record or image cannot be trusted.
	Volumes   int `json:"volumes"`
	Snapshots int `json:"snapshots"`
	Damaged   int `json:"damaged"`
	// Free is measured; Promised is what volumes may still need of it, Promisable
	// the largest sum of that which would be admitted, Room the size of the largest
	// volume that would be admitted now.
	Size       volume.Bytes `json:"size"`
	Free       volume.Bytes `json:"free"`
	Promised   volume.Bytes `json:"promised"`
	Promisable volume.Bytes `json:"promisable"`
	Room       volume.Bytes `json:"room"`
	// Overcommit is what the driver that was started last was told.
	Overcommit float64 `json:"overcommit"`
	// Use is where the rest of the space is, Objects who has it; nil unless asked
	// for.
	Use     *SpaceUse      `json:"use,omitempty"`
	Objects []ObjectStatus `json:"objects,omitempty"`
}

// The kinds of pools.
const (
	kindDirectory = "directory"
	kindImage     = "image"
	kindDisk      = "disk"
)

func (r registration) kind() string {
	switch {
	case r.Image:
		return kindImage
	case r.Device:
		return kindDisk
	}
	return kindDirectory
}

// root is the directory that is the pool.
func (r registration) root() string {
	if r.Image {
		return filepath.Join(r.Dir, MountDir)
	}
	return r.Dir
}

// Inspection says what Inspect looks at.
type Inspection struct {
	StateDir string
	// Pool is the name of the one to look at; "" means all.
	Pool string
	// Extents asks for PoolStatus.Use and Objects: every extent of every object is
	// looked at.
	Extents bool
}

// Inspect describes the pools that the state directory has registered, while a
// driver may be using them: it takes no lock and changes nothing.
func Inspect(ctx context.Context, what Inspection) ([]PoolStatus, error) {
	state, err := os.OpenRoot(what.StateDir)
	if err != nil {
		return nil, fmt.Errorf("open the state directory: %w", err)
	}
	defer state.Close()
	overcommit, err := readOvercommit(state)
	if err != nil {
		return nil, err
	}
	b := &Backend{cfg: Config{Overcommit: overcommit}}
	regs, unreadable := registrations(state)
	var out []PoolStatus
	for _, r := range regs {
		if what.Pool != "" && r.Name != what.Pool {
			continue
		}
		st := PoolStatus{
			Name: r.Name, ID: r.PoolID, Kind: r.kind(), Dir: r.Dir, FilesystemUUID: r.FSUUID, Available: true, Overcommit: overcommit,
		}
		if err := b.inspect(ctx, r, what.Extents, &st); err != nil {
			st.Available, st.Reason = false, err.Error()
		}
		out = append(out, st)
	}
	if what.Pool != "" && len(out) == 0 && unreadable == nil {
		return nil, fmt.Errorf("%w: no pool %s is registered in %s", volume.ErrNotFound, what.Pool, what.StateDir)
	}
	return out, unreadable
}

// isHere says why a registered pool is not there; nil if it is.
func isHere(r registration) error {
	p, err := (&Backend{}).openRegistered(r)
	if err != nil {
		return err
	}
	return p.close()
}

func (b *Backend) inspect(ctx context.Context, r registration, extents bool, st *PoolStatus) error {
	p, err := b.openRegistered(r)
	if err != nil {
		return err
	}
	return errors.Join(p.inspect(ctx, extents, st), p.close())
}

// openRegistered opens a registered pool to look at it: nothing is mounted, locked
// or put right.
func (b *Backend) openRegistered(r registration) (*pool, error) {
	if uuid, err := filesystemAt(r.root()); r.Device && (err != nil || uuid != r.FSUUID) {
		return nil, fmt.Errorf("%w: the disk with the filesystem %s is not mounted at %s: the driver mounts it when it is connected", volume.ErrUnavailable, r.FSUUID, r.Dir)
	}
	p, err := b.openDir(r.root(), r.Name)
	if err != nil {
		return nil, err
	}
	m, err := readMarker(p.root)
	_, uuid := p.store.identity()
	switch {
	case err != nil:
	case m.PoolID != r.PoolID:
		err = fmt.Errorf("%w: pool %s is mounted here instead", volume.ErrUnavailable, m.PoolID)
	case m.FSUUID != uuid:
		err = fmt.Errorf("%w: its marker belongs to filesystem %s, this is %s: the pool was copied, or its disk is not mounted", volume.ErrUnavailable, m.FSUUID, uuid)
	}
	if err != nil {
		return nil, errors.Join(err, p.close())
	}
	p.id = m.PoolID
	return p, nil
}

func (p *pool) inspect(ctx context.Context, extents bool, st *PoolStatus) error {
	st.Filesystem, _ = p.store.identity()
	st.Source = sourceOf(p.dir)
	for dir, kind := range map[string]volume.Kind{volumesDir: volume.KindVolume, snapshotsDir: volume.KindSnapshot} {
		if err := p.inspectObjects(dir, kind, st); err != nil {
			return err
		}
	}
	// A promise is known only when what was copied is measured.
	if err := p.measureAll(ctx); err != nil {
		return err
	}
	if err := p.account(st); err != nil {
		return err
	}
	if !extents {
		return nil
	}
	return p.explain(ctx, st)
}

func (p *pool) inspectObjects(dir string, kind volume.Kind, st *PoolStatus) error {
	entries, err := fs.ReadDir(p.root.FS(), dir)
	if err != nil {
		return fmt.Errorf("list %s: %w", dir, err)
	}
	for _, e := range entries {
		id, err := volume.ParseID(kind, e.Name())
		if err != nil {
			st.Damaged++
			continue
		}
		o, err := p.loadObject(id)
		switch {
		case errors.Is(err, fs.ErrNotExist): // deleted while we looked
		case err != nil || o.damage != nil:
			st.Damaged++
		case kind == volume.KindSnapshot:
			st.Snapshots++
			p.objects[id] = &o
		default:
			st.Volumes++
			p.objects[id] = &o
		}
	}
	return nil
}

func (p *pool) account(st *PoolStatus) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	b, err := p.balanceLocked()
	st.Size, st.Free, st.Promised, st.Promisable, st.Room = b.Total, b.Free, b.owed, b.limit, b.room()
	return err
}
