package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/filesystem"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// A guard mark is a file that says that the guard may freeze a volume at any
// instant: it is there before the freeze and goes after the thaw, when the pool is
// not nearly full any more. Its file mode says that the guard has frozen it
// (markFrozen), from just before the freeze until just after the thaw. Who thaws then
// is the guard of whichever driver has the pool, after it has measured; nobody else.
// To thaw on a full pool loses data, so neither a driver that starts nor the watchdog
// thaws such a volume, whatever freeze intent it has. A volume that is only marked
// they do thaw: who froze it was a snapshot.
//
// The mark is not synced: a freeze does not outlive its kernel, and until that ends
// the file is there for everybody, whoever dies. Writing it must not wait for a disk
// that is being filled. It has the content of a freeze intent.

// marks are the guard marks in a state directory.
type marks struct {
	state *os.Root
}

// The mode of a mark. Changing it needs no space and cannot be half done. Both let
// the owner write.
const (
	markNear   fs.FileMode = 0o600
	markFrozen fs.FileMode = 0o640
)

func markFile(id volume.ID) string { return path.Join(stateDirGuard, string(id)+".json") }

func (m marks) write(id volume.ID, fsType volume.FSType) error {
	boot, uptime, err := uptime()
	if err != nil {
		return err
	}
	data, err := json.Marshal(intent{Volume: id, FSType: fsType, Since: time.Now().UTC(), Boot: boot, Uptime: uptime})
	if err != nil {
		return fmt.Errorf("encode guard mark: %w", err)
	}
	f, err := m.state.OpenFile(markFile(id), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, markNear)
	if err != nil {
		return fmt.Errorf("write down that %s may be frozen: %w", id, err)
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write down that %s may be frozen: %w", id, err)
	}
	return nil
}

// say says in the mark of a volume whether the guard has frozen it.
func (m marks) say(id volume.ID, mode fs.FileMode) error {
	if err := m.state.Chmod(markFile(id), mode); err != nil {
		return fmt.Errorf("write down whether %s is frozen: %w", id, err)
	}
	return nil
}

// frozen says whether the guard of a driver has frozen a volume since this boot and
// not thawed it, or is just about to freeze it.
func (m marks) frozen(id volume.ID) (bool, error) {
	st, err := m.state.Lstat(markFile(id))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for the guard mark of %s: %w", id, err)
	}
	if st.Mode().Perm() != markFrozen {
		return false, nil
	}
	return m.has(id)
}

func (m marks) remove(id volume.ID) error {
	if err := m.state.Remove(markFile(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget that %s may be frozen: %w", id, err)
	}
	return nil
}

// has says whether the guard of a driver may have frozen a volume since this boot.
func (m marks) has(id volume.ID) (bool, error) {
	f, err := m.state.Open(markFile(id))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for the guard mark of %s: %w", id, err)
	}
	defer f.Close()
	data, err := io.ReadAll(f)
	if err != nil {
		return false, fmt.Errorf("read the guard mark of %s: %w", id, err)
	}
	var what intent
	boot, _, err := uptime()
	// One that cannot be read is being written, or says too little: careful.
	return json.Unmarshal(data, &what) != nil || what.Boot == boot || err != nil, nil
}

// of is the volumes of a pool that have a mark.
func (m marks) of(pool volume.PoolID) ([]volume.ID, error) {
	entries, err := fs.ReadDir(m.state.FS(), stateDirGuard)
	if err != nil {
		return nil, fmt.Errorf("list guard marks: %w", err)
	}
	var ids []volume.ID
	for _, e := range entries {
		id, err := volume.ParseID(volume.KindVolume, strings.TrimSuffix(e.Name(), ".json"))
		if err == nil && id.Pool() == pool {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// adopt takes over what an earlier driver's guard has frozen: it stays frozen until
// there is space. What somebody works on, or has open, is ours already.
func (g *guard) adopt(ctx context.Context) error {
	m := g.pool.backend.marks
	ids, err := m.of(g.pool.id)
	if err != nil {
		return err
	}
	var errs []error
	for _, id := range ids {
		g.mu.Lock()
		w := g.wards[id]
		foreign := w != nil && !w.busy && w.root == nil
		if foreign {
			w.busy = true
		}
		g.mu.Unlock()
		switch {
		case w == nil:
			errs = append(errs, g.forgetMark(id))
		case foreign:
			g.begin(ctx, w, func() error { return g.adoptWard(ctx, w) })
		}
	}
	return errors.Join(errs...)
}

// forgetMark removes the mark of a volume that is not attached, and so not frozen.
func (g *guard) forgetMark(id volume.ID) error {
	d, err := g.pool.backend.openByTag(id)
	if err != nil {
		return err
	}
	if d != nil { // it has no tag any more, or has it only now
		return d.Close()
	}
	return g.pool.backend.marks.remove(id)
}

func (g *guard) adoptWard(ctx context.Context, w *ward) error {
	if ours, err := g.pool.backend.marks.has(w.id); err != nil || !ours {
		return errors.Join(err, g.pool.backend.marks.remove(w.id))
	}
	held, err := isHeld(w.index)
	if err != nil {
		return err
	}
	w.frozen = held // until we know better: then it is opened even if it is mounted nowhere
	if err := g.open(ctx, w); err != nil || w.root == nil {
		w.frozen = false
		return err
	}
	// The only way to ask is to try.
	err = filesystem.Freeze(w.root)
	if err == nil {
		w.frozen = false
		return filesystem.Thaw(w.root)
	}
	if !errors.Is(err, volume.ErrBusy) {
		return err
	}
	err = g.pool.backend.marks.say(w.id, markFrozen)
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.frozen {
		g.frozen, g.adopted, g.since = true, true, time.Now()
	}
	return err
}

// isHeld says whether a filesystem of the device is mounted anywhere, or frozen and
// mounted nowhere (man 2 open, O_EXCL on block devices).
func isHeld(index int) (bool, error) {
	fd, err := unix.Open(fmt.Sprintf("/dev/loop%d", index), unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.EBUSY) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("open /dev/loop%d: %w", index, err)
	}
	return false, unix.Close(fd)
}
