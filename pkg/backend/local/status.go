package local

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// PoolStatus is what driver pool status shows of a pool.
type PoolStatus struct {
	volume.Pool
	Dir string
	// Volumes and Snapshots are counts; Damaged counts objects that are not
	// served because their record or image cannot be trusted.
	Volumes, Snapshots, Damaged int
	// Free is measured; Promised is what volumes may still need of it; Room is
	// the size of the largest volume that would be admitted. Bytes.
	Free, Promised, Room volume.Bytes
}

// Inspect describes every pool that stateDir has registered, while a driver may
// be using them: it takes no lock and changes nothing.
func Inspect(stateDir string) ([]PoolStatus, error) {
	state, err := os.OpenRoot(stateDir)
	if err != nil {
		return nil, fmt.Errorf("open the state directory: %w", err)
	}
	defer state.Close()
	regs, unreadable := registrations(state)
	var out []PoolStatus
	for _, r := range regs {
		st := PoolStatus{Pool: volume.Pool{ID: r.PoolID, Name: r.Name, Available: true}, Dir: r.Dir}
		if err := inspect(r, &st); err != nil {
			st.Available, st.Reason = false, err.Error()
		}
		out = append(out, st)
	}
	return out, unreadable
}

func inspect(r registration, st *PoolStatus) error {
	dir := r.Dir
	if r.Image {
		dir = filepath.Join(dir, MountDir)
	}
	p, err := (&Backend{}).openDir(dir, r.Name)
	if err != nil {
		return err
	}
	return errors.Join(p.inspect(r, st), p.close())
}

func (p *pool) inspect(r registration, st *PoolStatus) error {
	m, err := readMarker(p.root)
	if err != nil {
		return err
	}
	if m.PoolID != r.PoolID {
		return fmt.Errorf("%w: pool %s is mounted here instead", volume.ErrUnavailable, m.PoolID)
	}
	p.id = m.PoolID
	for dir, kind := range map[string]volume.Kind{volumesDir: volume.KindVolume, snapshotsDir: volume.KindSnapshot} {
		if err := p.inspectObjects(dir, kind, st); err != nil {
			return err
		}
	}
	return p.account(st)
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
	st.Free, st.Promised, st.Room = b.Free, b.owed, b.room()
	return err
}
