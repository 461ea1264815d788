package local

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/holdfast-csi/holdfast/pkg/durable"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// marker is the content of holdfast.json: what makes a directory a pool.
type marker struct {
	Format     int           `json:"format"`
	PoolID     volume.PoolID `json:"poolID"`
	Filesystem string        `json:"filesystem"`
	FSUUID     string        `json:"filesystemUUID"`
}

const (
	markerFile   = "holdfast.json"
	markerFormat = 1
)

func readMarker(root *os.Root) (marker, error) {
	data, err := root.ReadFile(markerFile)
	if err != nil {
		return marker{}, fmt.Errorf("read the pool's marker %s: %w", markerFile, err)
	}
	var m marker
	if err := json.Unmarshal(data, &m); err != nil {
		return marker{}, fmt.Errorf("%w: the pool's marker %s is not readable: %w; restore it from a backup, do not delete it", volume.ErrDataLoss, markerFile, err)
	}
	if m.Format != markerFormat {
		return marker{}, fmt.Errorf("%w: the pool has format %d, this driver knows %d; use a newer driver", volume.ErrPrecondition, m.Format, markerFormat)
	}
	if _, err := volume.ParsePoolID(string(m.PoolID)); err != nil {
		return marker{}, fmt.Errorf("the pool's marker %s: %w", markerFile, err)
	}
	return m, nil
}

func writeMarker(root *os.Root, m marker) error {
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the pool's marker: %w", err)
	}
	return durable.WriteFile(root, markerFile, append(data, '\n'))
}

// registration is what the state directory remembers of a pool, so that one that
// is missing is never made anew.
type registration struct {
	PoolID volume.PoolID `json:"poolID"`
	Name   string        `json:"name"`
	Dir    string        `json:"dir"`
	Image  bool          `json:"image,omitempty"` // the pool is an image inside Dir
	// Device: the pool is a disk that the driver mounts at Dir.
	Device bool   `json:"device,omitempty"`
	FSUUID string `json:"filesystemUUID"`
}

const (
	stateDirPools  = "pools"
	stateDirFreeze = "freeze"
	stateDirGuard  = "guard"
)

func openState(dir string) (*os.Root, error) {
	if !path.IsAbs(dir) {
		return nil, fmt.Errorf("%w: state directory %q: want an absolute path", volume.ErrInvalid, dir)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the state directory: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open the state directory: %w", err)
	}
	for _, sub := range []string{stateDirPools, stateDirFreeze, stateDirGuard} {
		if err := root.Mkdir(sub, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, errors.Join(fmt.Errorf("make the state directory: %w", err), root.Close())
		}
	}
	return root, nil
}

// registrations are all registered pools, in order of id, and an error for those
// that cannot be read.
func registrations(state *os.Root) ([]registration, error) {
	entries, err := fs.ReadDir(state.FS(), stateDirPools)
	if err != nil {
		return nil, fmt.Errorf("list registered pools: %w", err)
	}
	var out []registration
	var errs []error
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".json") {
			continue // a file that was being written
		}
		r, err := readRegistration(state, path.Join(stateDirPools, e.Name()))
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out = append(out, r)
	}
	return out, errors.Join(errs...)
}

func readRegistration(state *os.Root, name string) (registration, error) {
	data, err := state.ReadFile(name)
	if err != nil {
		return registration{}, fmt.Errorf("read registered pool: %w", err)
	}
	var r registration
	if err := json.Unmarshal(data, &r); err != nil {
		return registration{}, fmt.Errorf("%w: the registration %s in the state directory is not readable: %w; remove it if its pool is gone for good, a pool that is there is registered again", volume.ErrPrecondition, name, err)
	}
	return r, nil
}

// findRegistration is the pool that is registered in this directory, or else
// under this name: a pool that is given another name is still the same. It is
// ErrNotFound if there is none; if one cannot be read, nobody knows.
func findRegistration(state *os.Root, pc PoolConfig) (registration, error) {
	all, err := registrations(state)
	for _, matches := range []func(registration) bool{
		func(r registration) bool { return r.Dir == pc.Dir },
		func(r registration) bool { return r.Name == pc.Name },
	} {
		for _, r := range all {
			if matches(r) {
				return r, nil
			}
		}
	}
	if err != nil {
		return registration{}, err
	}
	return registration{}, fmt.Errorf("%w: no pool %s is registered", volume.ErrNotFound, pc.Name)
}

func register(state *os.Root, r registration) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encode registration: %w", err)
	}
	return durable.WriteFile(state, path.Join(stateDirPools, string(r.PoolID)+".json"), append(data, '\n'))
}
