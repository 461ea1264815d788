package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/durable"
	"github.com/holdfast-csi/holdfast/pkg/filesystem"
	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// quiesced runs fn, which copies the source's image, at an instant when all that
// was written to the source is in the image: an attached block device has been
// synced, a mounted filesystem is frozen.
func (p *pool) quiesced(ctx context.Context, src object, consistency volume.Consistency, fn func() error) error {
	if src.ID.Kind() == volume.KindSnapshot {
		return fn() // nobody writes to a snapshot
	}
	d, err := p.backend.openByTag(src.ID)
	if err != nil {
		return err
	}
	if d == nil {
		return fn()
	}
	defer d.Close()
	if src.Format.Mode == volume.ModeBlock {
		// Writes that were closed but not synced are in the device's cache.
		if err := d.Sync(); err != nil {
			return err
		}
		return fn()
	}
	if consistency == volume.ConsistencyCrash {
		return fn()
	}
	root, err := mountedRoot(ctx, d, src.Format.FSType)
	if err != nil {
		return err
	}
	defer root.Close()
	return p.frozen(ctx, src.ID, root, fn)
}

// frozen runs fn while the filesystem at root is frozen.
//
// The order keeps the freeze short and never forgotten: write out what is dirty
// inside, then in the pool, so that the freeze has little to flush and the copy
// has little to commit; write down the intent, so that whoever starts next thaws;
// freeze; copy; thaw. A timer thaws if the copy hangs, and then the copy is not
// used.
func (p *pool) frozen(ctx context.Context, id volume.ID, root *os.File, fn func() error) error {
	b := p.backend
	if err := filesystem.Sync(root); err != nil {
		return fmt.Errorf("sync before freezing: %w", err)
	}
	if err := p.store.commit(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("freeze %s: %w", id, context.Cause(ctx))
	}
	if err := b.writeIntent(id); err != nil {
		return err
	}
	if err := b.cfg.Fault.At("freeze/intent"); err != nil {
		return errors.Join(err, b.removeIntent(id))
	}
	if err := filesystem.Freeze(root); err != nil {
		return errors.Join(fmt.Errorf("freeze %s: %w", id, err), b.removeIntent(id))
	}
	var late atomic.Bool
	deadline := time.AfterFunc(b.cfg.FreezeTimeout, func() {
		late.Store(true)
		// The thaw below tries again and reports.
		_ = filesystem.Thaw(root)
	})
	err := b.cfg.Fault.At("freeze/frozen")
	if err == nil {
		err = fn()
	}
	deadline.Stop()
	if terr := filesystem.Thaw(root); terr != nil {
		return errors.Join(err, fmt.Errorf("thaw %s: %w; its writers hang until: fsfreeze -u MOUNTPOINT", id, terr))
	}
	if late.Load() {
		return errors.Join(fmt.Errorf("%w: the copy of %s took longer than %s, its filesystem was thawed and the copy is not used; try again", volume.ErrUnavailable, id, b.cfg.FreezeTimeout), b.removeIntent(id))
	}
	return errors.Join(err, b.removeIntent(id))
}

// mountedRoot opens the root of the filesystem on a loop device: through a mount
// that this namespace shows, else through a mount of our own. The latter is how
// to reach a filesystem that only another namespace has mounted.
func mountedRoot(ctx context.Context, d *loop.Device, fsType volume.FSType) (*os.File, error) {
	info, err := d.Info()
	if err != nil {
		return nil, err
	}
	mounts, err := mount.List()
	if err != nil {
		return nil, err
	}
	for _, m := range mount.OfDevice(mounts, info.Major, info.Minor) {
		if m.Root != "/" {
			continue
		}
		if f, err := os.Open(m.Path); err == nil {
			if onDevice(f, info) {
				return f, nil
			}
			f.Close()
		}
	}
	cfg := mount.Config{FSType: string(fsType), Source: d.Path()}
	if fsType == volume.XFS {
		cfg.Options = []mount.Option{{Key: "nouuid"}}
	}
	tree, err := mount.New(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("reach the filesystem on %s: %w", d.Path(), err)
	}
	root, err := tree.Root()
	return root, errors.Join(err, tree.Close())
}

// intent says that a filesystem may be frozen by us.
type intent struct {
	Volume volume.ID `json:"volume"`
	Since  time.Time `json:"since"`
}

func intentFile(id volume.ID) string { return path.Join(stateDirFreeze, string(id)+".json") }

func (b *Backend) writeIntent(id volume.ID) error {
	data, err := json.Marshal(intent{Volume: id, Since: time.Now().UTC()})
	if err != nil {
		return fmt.Errorf("encode freeze intent: %w", err)
	}
	if err := durable.WriteFile(b.state, intentFile(id), data); err != nil {
		return fmt.Errorf("write down that %s will be frozen: %w", id, err)
	}
	return nil
}

// removeIntent need not be durable: a thaw too many does no harm.
func (b *Backend) removeIntent(id volume.ID) error {
	if err := b.state.Remove(intentFile(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget that %s was frozen: %w", id, err)
	}
	return nil
}

// thawIntents thaws every filesystem that a driver which died may have left
// frozen. It needs no pool: a pool on a frozen machine may not come up.
func (b *Backend) thawIntents(ctx context.Context) error {
	entries, err := fs.ReadDir(b.state.FS(), stateDirFreeze)
	if err != nil {
		return fmt.Errorf("list freeze intents: %w", err)
	}
	var errs []error
	for _, e := range entries {
		id, err := volume.ParseID(volume.KindVolume, strings.TrimSuffix(e.Name(), ".json"))
		if err != nil {
			continue // a temporary file
		}
		if err := b.thawOne(ctx, id); err != nil {
			errs = append(errs, fmt.Errorf("thaw %s: %w; its writers hang until: fsfreeze -u MOUNTPOINT", id, err))
		}
	}
	return errors.Join(errs...)
}

func (b *Backend) thawOne(ctx context.Context, id volume.ID) error {
	d, err := b.openByTag(id)
	if err != nil {
		return err
	}
	if d != nil {
		err = thawDevice(ctx, d)
		if cerr := d.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return err
		}
	}
	return b.removeIntent(id)
}

func thawDevice(ctx context.Context, d *loop.Device) error {
	sb, err := filesystem.Probe(d.File())
	if err != nil {
		return err
	}
	root, err := mountedRoot(ctx, d, sb.Type)
	if err != nil {
		return err
	}
	defer root.Close()
	return filesystem.Thaw(root)
}

// onDevice guards against a mount that covers the one that was looked for.
func onDevice(f *os.File, dev loop.Info) bool {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return false
	}
	return st.Dev == unix.Mkdev(dev.Major, dev.Minor)
}
