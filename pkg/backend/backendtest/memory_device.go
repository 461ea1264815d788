package backendtest

import (
	"context"
	"fmt"
	"maps"

	"github.com/holdfast-csi/holdfast/pkg/backend"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// memoryMajor is a major number that Linux leaves to local and experimental use
// (Documentation/admin-guide/devices.txt).
const memoryMajor = 240

// memoryDevice is an attached volume. There is no node at its path: bytes are
// written and read with Memory.WriteAt and Memory.ReadAt.
type memoryDevice struct {
	minor uint32
	size  volume.Bytes
}

func (d *memoryDevice) path() string { return fmt.Sprintf("/dev/memory%d", d.minor) }

func (d *memoryDevice) open() *backend.Device {
	return &backend.Device{Path: d.path(), Major: memoryMajor, Minor: d.minor, Size: d.size}
}

// Attach implements backend.Attacher. Its step is attach/configure. Every device
// stays until Detach, that of a filesystem volume too.
func (m *Memory) Attach(ctx context.Context, id volume.ID) (*backend.Device, error) {
	if _, err := m.Volume(ctx, id); err != nil {
		return nil, fmt.Errorf("attach %s: %w", id, err)
	}
	if err := m.step(ctx, "attach/configure"); err != nil {
		return nil, fmt.Errorf("attach %s: %w", id, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	v, err := m.volumeLocked(id)
	if err != nil {
		return nil, fmt.Errorf("attach %s: %w", id, err)
	}
	d, ok := m.devices[id]
	if !ok {
		m.minors++
		d = &memoryDevice{minor: m.minors, size: v.Size}
		m.devices[id] = d
	}
	return d.open(), nil
}

// Lookup implements backend.Attacher.
func (m *Memory) Lookup(ctx context.Context, id volume.ID) (*backend.Device, bool, error) {
	if err := ctx.Err(); err != nil {
		return nil, false, fmt.Errorf("look up the device of %s: %w", id, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if d, ok := m.devices[id]; ok {
		return d.open(), true, nil
	}
	return nil, false, nil
}

// Refresh implements backend.Attacher. Its step is refresh/resize.
func (m *Memory) Refresh(ctx context.Context, id volume.ID) error {
	if err := m.step(ctx, "refresh/resize"); err != nil {
		return fmt.Errorf("refresh the device of %s: %w", id, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	d, ok := m.devices[id]
	if !ok {
		return nil
	}
	v, err := m.volumeLocked(id)
	if err != nil {
		return fmt.Errorf("refresh the device of %s: %w", id, err)
	}
	d.size = v.Size
	return nil
}

// Detach implements backend.Attacher. Its step is detach/clear.
func (m *Memory) Detach(ctx context.Context, id volume.ID) error {
	if err := m.step(ctx, "detach/clear"); err != nil {
		return fmt.Errorf("detach %s: %w", id, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.devices, id)
	return nil
}

// WriteAt writes p into a volume at off, as a program on its device would.
func (m *Memory) WriteAt(ctx context.Context, id volume.ID, p []byte, off int64) error {
	return m.io(ctx, id, "write", p, off, func(d pages) { d.write(p, off) })
}

// ReadAt fills p with what is in a volume at off.
func (m *Memory) ReadAt(ctx context.Context, id volume.ID, p []byte, off int64) error {
	return m.io(ctx, id, "read", p, off, func(d pages) { d.read(p, off) })
}

func (m *Memory) io(ctx context.Context, id volume.ID, verb string, p []byte, off int64, do func(pages)) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s %d bytes at %d of %s: %w", verb, len(p), off, id, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	v, err := m.volumeLocked(id)
	if err != nil {
		return fmt.Errorf("%s %d bytes at %d of %s: %w", verb, len(p), off, id, err)
	}
	if off < 0 || volume.Bytes(off)+volume.Bytes(len(p)) > v.Size {
		return fmt.Errorf("%s %d bytes at %d of %s: the volume has %d bytes", verb, len(p), off, id, v.Size)
	}
	do(v.data)
	return nil
}

const pageSize = 4096

// pages is sparse content: page number to page. A page that is in a map is never
// written to again, so that maps can share it.
type pages map[int64]*[pageSize]byte

func (d pages) clone() pages { return maps.Clone(d) }

func (d pages) write(p []byte, off int64) {
	for len(p) > 0 {
		page := new([pageSize]byte)
		if old := d[off/pageSize]; old != nil {
			*page = *old
		}
		n := copy(page[off%pageSize:], p)
		d[off/pageSize] = page
		p, off = p[n:], off+int64(n)
	}
}

func (d pages) read(p []byte, off int64) {
	for len(p) > 0 {
		page := d[off/pageSize]
		if page == nil {
			page = new([pageSize]byte)
		}
		n := copy(p, page[off%pageSize:])
		p, off = p[n:], off+int64(n)
	}
}
