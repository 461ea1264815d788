package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/backend"
	"github.com/holdfast-csi/holdfast/pkg/command"
	"github.com/holdfast-csi/holdfast/pkg/filesystem"
	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

const testPool = volume.PoolID("00000000000000aa")

// images is a backend.Attacher over sparse image files in a directory, with real
// loop devices. It keeps everything in the directory and in the kernel, so that
// another process with the same directory goes on where this one stopped.
type images struct {
	dir string
	mu  sync.Mutex // held while looking for a device and attaching it

	sick map[volume.ID][]volume.Condition
	ill  []volume.Condition // of the pool
	left volume.Bytes       // in the pool; 0 means that all is promised
}

func (m *images) image(id volume.ID) string  { return filepath.Join(m.dir, string(id)+".img") }
func (m *images) record(id volume.ID) string { return filepath.Join(m.dir, string(id)+".json") }

// tag ends with the directory so that two tests with the same names do not meet.
func (m *images) tag(id volume.ID) string {
	return "test:" + id.Hash()[:16] + ":" + volume.HashName(m.dir)[:16]
}

// create makes a volume as an engine would: formatted.
func (m *images) create(t testing.TB, name string, format volume.Format, size volume.Bytes) volume.Volume {
	t.Helper()
	if format.SectorSize == 0 {
		format.SectorSize = 4096
	}
	v := volume.Volume{
		// Tags are seen by the whole machine, where another run of these tests may
		// have a volume of this name.
		ID: volume.NewID(volume.KindVolume, testPool, m.dir+"/"+name), Name: name,
		Size: size, Format: format, BirthSize: size, Created: time.Now(),
	}
	f, err := os.OpenFile(m.image(v.ID), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(int64(size)); err != nil {
		t.Fatal(err)
	}
	if format.Mode == volume.ModeFilesystem {
		if err := filesystem.Format(t.Context(), command.New(), m.image(v.ID), format); err != nil {
			t.Fatal(err)
		}
	}
	m.save(t, v)
	return v
}

func (m *images) save(t testing.TB, v volume.Volume) {
	t.Helper()
	b, err := json.Marshal(v)
	if err == nil {
		err = os.WriteFile(m.record(v.ID), b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// expand does what ControllerExpandVolume does.
func (m *images) expand(t testing.TB, v volume.Volume, size volume.Bytes) volume.Volume {
	t.Helper()
	if err := os.Truncate(m.image(v.ID), int64(size)); err != nil {
		t.Fatal(err)
	}
	v.Size = size
	m.save(t, v)
	return v
}

func (m *images) Pools() []volume.Pool {
	return []volume.Pool{{ID: testPool, Name: "default", Available: true}}
}

func (m *images) Volume(_ context.Context, id volume.ID) (volume.Volume, error) {
	var v volume.Volume
	b, err := os.ReadFile(m.record(id))
	if errors.Is(err, os.ErrNotExist) {
		return v, fmt.Errorf("%w: volume %s", volume.ErrNotFound, id)
	}
	if err != nil {
		return v, err
	}
	return v, json.Unmarshal(b, &v)
}

func (m *images) Attach(ctx context.Context, id volume.ID) (*backend.Device, error) {
	v, err := m.Volume(ctx, id)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if dev, ok, err := m.Lookup(ctx, id); ok || err != nil {
		return dev, err
	}
	f, err := os.OpenFile(m.image(id), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	dev, err := loop.Attach(ctx, loop.Config{Backing: f, Tag: m.tag(id), BlockSize: v.Format.SectorSize})
	if err != nil {
		return nil, err
	}
	if v.Format.Mode == volume.ModeBlock {
		if err := dev.SetAutoclear(false); err != nil {
			return nil, errors.Join(err, dev.Detach())
		}
	}
	return asDevice(dev)
}

func asDevice(dev *loop.Device) (*backend.Device, error) {
	info, err := dev.Info()
	if err != nil {
		return nil, errors.Join(err, dev.Close())
	}
	return &backend.Device{Path: dev.Path(), Major: info.Major, Minor: info.Minor, Size: info.Size, Hold: dev}, nil
}

func (m *images) Lookup(_ context.Context, id volume.ID) (*backend.Device, bool, error) {
	found, err := loop.Find(m.tag(id))
	if err != nil || len(found) == 0 {
		return nil, false, err
	}
	dev, err := loop.Open(found[0].Index)
	if errors.Is(err, volume.ErrNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	d, err := asDevice(dev)
	return d, err == nil, err
}

func (m *images) each(id volume.ID, do func(*loop.Device) error) error {
	found, err := loop.Find(m.tag(id))
	if err != nil {
		return err
	}
	for _, i := range found {
		dev, err := loop.Open(i.Index)
		if errors.Is(err, volume.ErrNotFound) {
			continue
		}
		if err == nil {
			err = errors.Join(do(dev), dev.Close())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (m *images) Refresh(_ context.Context, id volume.ID) error {
	return m.each(id, (*loop.Device).Refresh)
}

func (m *images) Detach(_ context.Context, id volume.ID) error {
	return m.each(id, func(d *loop.Device) error { return errors.Join(d.Sync(), d.Detach()) })
}

// Health implements backend.Attacher.
func (m *images) Health(ctx context.Context, id volume.ID) ([]volume.Condition, error) {
	if _, err := m.Volume(ctx, id); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.sick[id], nil
}

// StorageHealth implements backend.Attacher.
func (m *images) StorageHealth(context.Context) ([]volume.PoolHealth, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []volume.PoolHealth
	for _, p := range m.Pools() {
		out = append(out, volume.PoolHealth{Pool: p, Conditions: m.ill})
	}
	return out, nil
}

// Headroom implements backend.Attacher.
func (m *images) Headroom(volume.ID) (volume.Bytes, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.left, m.left > 0
}
