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
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/durable"
	"github.com/holdfast-csi/holdfast/pkg/filesystem"
	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// A freeze intent is a file that is durable before a filesystem is frozen and
// goes after it was thawed. While the driver that wrote it lives, it holds
// flock(2) on the file: whoever can take the lock knows that nobody is left to
// thaw.

// intent is the content of the file, for people.
type intent struct {
	Volume volume.ID `json:"volume"`
	Since  time.Time `json:"since"`
}

func intentFile(id volume.ID) string { return path.Join(stateDirFreeze, string(id)+".json") }

// writeIntent says that a filesystem will be frozen. end removes the intent if it
// was thawed, which need not be durable, for a thaw too many does no harm; else it
// leaves it to thawUntil.
func (b *Backend) writeIntent(id volume.ID) (end func(thawed bool) error, err error) {
	data, err := json.Marshal(intent{Volume: id, Since: time.Now().UTC()})
	if err != nil {
		return nil, fmt.Errorf("encode freeze intent: %w", err)
	}
	held, err := durable.WriteLocked(b.state, intentFile(id), data)
	if err != nil {
		return nil, fmt.Errorf("write down that %s will be frozen: %w", id, err)
	}
	return func(thawed bool) error {
		if !thawed {
			return held.Close() // and with it the lock
		}
		return errors.Join(b.removeIntent(id), held.Close())
	}, nil
}

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
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// thawOne thaws a filesystem unless a driver that lives has frozen it: that one
// thaws it itself.
func (b *Backend) thawOne(ctx context.Context, id volume.ID) error {
	f, err := b.state.OpenFile(intentFile(id), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open freeze intent: %w", err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil
		}
		return fmt.Errorf("lock freeze intent: %w", err)
	}
	if err := b.thawVolume(ctx, id); err != nil {
		return fmt.Errorf("thaw %s: %w; its writers hang until: fsfreeze -u MOUNTPOINT", id, err)
	}
	return b.removeIntent(id)
}

func (b *Backend) thawVolume(ctx context.Context, id volume.ID) error {
	d, err := b.openByTag(id)
	if err != nil || d == nil {
		return err
	}
	return errors.Join(thawDevice(ctx, d), d.Close())
}

func thawDevice(ctx context.Context, d *loop.Device) error {
	root, err := mountedRoot(ctx, d, "")
	if err != nil {
		return err
	}
	return errors.Join(filesystem.Thaw(root), root.Close())
}
