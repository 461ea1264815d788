package local

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// recover puts right what a crash left behind and reads the index: what was
// under construction is removed, for nobody was told that it exists; what was
// being deleted goes on; what belongs to nobody is set aside.
func (p *pool) recover(ctx context.Context) error {
	if err := p.emptyStaging(); err != nil {
		return err
	}
	for dir, kind := range map[string]volume.Kind{volumesDir: volume.KindVolume, snapshotsDir: volume.KindSnapshot} {
		if err := p.loadIndex(ctx, dir, kind); err != nil {
			return err
		}
	}
	if err := p.loadTrash(); err != nil {
		return err
	}
	if err := p.ensureBallast(); err != nil {
		p.backend.notice(BallastMissing, "pool %s: %v", p.name, err)
	}
	return nil
}

func (p *pool) emptyStaging() error {
	entries, err := fs.ReadDir(p.root.FS(), stagingDir)
	if err != nil {
		return fmt.Errorf("list %s: %w", stagingDir, err)
	}
	for _, e := range entries {
		if isCheckCopy(e.Name()) {
			continue // it may be in use: tidy knows
		}
		if err := p.discard(stagingDir + "/" + e.Name()); err != nil {
			p.backend.notice(CleanupFailed, "pool %s: remove what was under construction: %v", p.name, err)
		}
	}
	return nil
}

// loaders is how many objects are read at once: with cold caches a start waits for
// the disk most of the time.
const loaders = 32

// loadIndex reads all objects of a kind. The first error, in no order, ends it.
func (p *pool) loadIndex(ctx context.Context, dir string, kind volume.Kind) error {
	entries, err := fs.ReadDir(p.root.FS(), dir)
	if err != nil {
		return fmt.Errorf("list %s: %w", dir, err)
	}
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	names := make(chan string)
	var group sync.WaitGroup
	for range loaders {
		group.Go(func() {
			for name := range names {
				if err := p.loadEntry(dir, name, kind); err != nil {
					fail(err)
				}
			}
		})
	}
	for _, e := range entries {
		if ctx.Err() != nil {
			break
		}
		names <- e.Name()
	}
	close(names)
	group.Wait()
	return context.Cause(ctx)
}

// loadEntry puts one directory into the index. A directory without a record of
// ours is quarantined; one whose record or image is damaged stays where it is,
// for a person to look at, and does not exist as far as callers are concerned.
func (p *pool) loadEntry(dir, name string, kind volume.Kind) error {
	id, err := volume.ParseID(kind, name)
	if err != nil || id.Pool() != p.id {
		return p.quarantine(dir, name)
	}
	o, err := p.loadObject(id)
	if errors.Is(err, errNoRecord) {
		return p.quarantine(dir, name)
	}
	if why := cmp.Or(err, o.damage); why != nil {
		p.backend.notice(ObjectDamaged, "pool %s: %s/%s is damaged and not served: %v", p.name, dir, name, why)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		p.rotten[id] = err
		return nil
	}
	p.objects[id] = &o
	return nil
}

func (p *pool) quarantine(dir, name string) error {
	to := fmt.Sprintf("%s/%s.%d", quarantineDir, name, time.Now().UnixNano())
	p.backend.notice(OrphanFound, "pool %s: %s/%s has no record; moved to %s, look at it and remove it by hand", p.name, dir, name, to)
	return p.rename(dir+"/"+name, to, func() error { return nil })
}
