package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
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
		if err := p.discard(stagingDir + "/" + e.Name()); err != nil {
			p.backend.notice(CleanupFailed, "pool %s: remove what was under construction: %v", p.name, err)
		}
	}
	return nil
}

func (p *pool) loadIndex(ctx context.Context, dir string, kind volume.Kind) error {
	entries, err := fs.ReadDir(p.root.FS(), dir)
	if err != nil {
		return fmt.Errorf("list %s: %w", dir, err)
	}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := p.loadEntry(dir, e.Name(), kind); err != nil {
			return err
		}
	}
	return nil
}

// loadEntry puts one directory into the index. A directory without a record of
// ours is quarantined; one whose record or image is damaged stays where it is,
// for a person to look at, and does not exist as far as callers are concerned.
func (p *pool) loadEntry(dir, name string, kind volume.Kind) error {
	id, err := volume.ParseID(kind, name)
	if err != nil || id.Pool() != p.id {
		return p.quarantine(dir, name)
	}
	if _, err := p.root.Lstat(dir + "/" + name + "/" + recordFile(kind)); errors.Is(err, fs.ErrNotExist) {
		if _, err := p.root.Lstat(dir + "/" + name + "/" + recordFile(kind) + previousSuffix); errors.Is(err, fs.ErrNotExist) {
			return p.quarantine(dir, name)
		}
	}
	o, err := p.loadObject(id)
	if err != nil {
		p.backend.notice(ObjectDamaged, "pool %s: %s/%s is damaged and not served: %v", p.name, dir, name, err)
		p.rotten[id] = err
		return nil
	}
	if o.damage != nil {
		p.backend.notice(ObjectDamaged, "pool %s: %s/%s is damaged and not served: %v", p.name, dir, name, o.damage)
	}
	p.objects[id] = &o
	return nil
}

func (p *pool) quarantine(dir, name string) error {
	to := fmt.Sprintf("%s/%s.%d", quarantineDir, name, time.Now().UnixNano())
	p.backend.notice(OrphanFound, "pool %s: %s/%s has no record; moved to %s, look at it and remove it by hand", p.name, dir, name, to)
	return p.rename(dir+"/"+name, to, func() error { return nil })
}
