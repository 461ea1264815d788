package local

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"

	"github.com/holdfast-csi/holdfast/pkg/disk"
	"github.com/holdfast-csi/holdfast/pkg/durable"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// Only a pool that this node made, or that a person adopted, is used: a directory
// that shows somebody else's pool is no invitation. What this node is making is
// announced in the state directory before it has a marker, so that a crash before
// it is registered does not make it a stranger.

func announcement(id volume.PoolID) string { return path.Join(stateDirPools, string(id)+".new") }

func (b *Backend) announce(id volume.PoolID, pc PoolConfig) error {
	data, err := json.Marshal(registration{PoolID: id, Name: pc.Name, Dir: pc.Dir, Image: pc.Size > 0, Device: pc.Device != ""})
	if err != nil {
		return fmt.Errorf("encode registration: %w", err)
	}
	return durable.WriteFile(b.state, announcement(id), append(data, '\n'))
}

// announced is a pool that this node was making.
func (b *Backend) announced(id volume.PoolID) (r registration, ok bool) {
	r, err := readRegistration(b.state, announcement(id))
	return r, err == nil
}

func (b *Backend) making(id volume.PoolID) bool {
	_, ok := b.announced(id)
	return ok
}

// enroll registers a pool.
func (b *Backend) enroll(r registration) error {
	if err := register(b.state, r); err != nil {
		return err
	}
	return durable.Remove(b.state, announcement(r.PoolID))
}

// checkOurs refuses a pool that is not registered, neither under this name and
// directory nor under others, and that this node was not making.
func (b *Backend) checkOurs(m marker, pc PoolConfig) error {
	if b.making(m.PoolID) {
		return nil
	}
	_, err := b.state.Lstat(path.Join(stateDirPools, string(m.PoolID)+".json"))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s has pool %s, which is not registered on this node: it comes from another one, or the state directory was lost; to use it here: driver pool adopt %s=%s",
			volume.ErrPrecondition, pc.Dir, m.PoolID, pc.Name, pc.Dir)
	}
	return err
}

// checkNameFree refuses a name that another pool is registered under.
func (b *Backend) checkNameFree(name string, id volume.PoolID) error {
	all, err := registrations(b.state)
	for _, r := range all {
		if r.Name == name && r.PoolID != id {
			return fmt.Errorf("%w: pool %s is registered as %s in %s; give another name as NAME=..., or, if that pool is gone for good, remove %s.json from the state directory",
				volume.ErrExists, name, r.PoolID, r.Dir, path.Join(stateDirPools, string(r.PoolID)))
		}
	}
	return err
}

// checkSameDisk refuses a device that does not have the pool which is registered
// under this name or directory.
func checkSameDisk(pc PoolConfig, reg registration) error {
	d, err := disk.Find(pc.Device)
	if err != nil {
		return err
	}
	found, ok, err := d.Filesystem()
	if err != nil {
		return err
	}
	if ok && found.UUID == reg.FSUUID {
		return nil
	}
	return fmt.Errorf("%w: pool %s (%s) is registered under that name or directory, and it is not on %s; give another name and --dir; nothing was changed", volume.ErrExists, reg.Name, reg.PoolID, pc.Device)
}
