package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// delete takes an object out of sight, durably, and leaves the rest to run. One
// that does not exist is success.
func (b *Backend) delete(ctx context.Context, op string, kind volume.Kind, id volume.ID) error {
	p, err := b.poolOf(kind, id)
	if errors.Is(err, volume.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	end, err := b.begin(ctx, kind, id.Hash())
	if err != nil {
		return err
	}
	defer end()
	if kind == volume.KindVolume {
		if err := b.checkUnused(id); err != nil {
			return err
		}
	}
	if err := p.withBallast(func() error { return p.toTrash(op, id) }); err != nil {
		return fmt.Errorf("delete %s: %w", id, err)
	}
	select {
	case p.kick <- struct{}{}:
	default: // run has been woken already
	}
	return nil
}

func (p *pool) toTrash(op string, id volume.ID) error {
	at := p.backend.cfg.Fault
	if err := at.At(op + "/start"); err != nil {
		return err
	}
	o, _ := p.lookup(id)
	// A trash name of its own, for a name may be created and deleted again while
	// its first life is still in the trash.
	name := fmt.Sprintf("%s.%d", id, time.Now().UnixNano())
	p.mu.Lock()
	p.trash[name] = o.Lineage // before the rename: never uncharged in between
	p.mu.Unlock()
	err := p.rename(objectDir(id), trashDir+"/"+name, func() error { return at.At(op + "/renamed") })
	gone := errors.Is(err, fs.ErrNotExist)
	p.mu.Lock()
	defer p.mu.Unlock()
	if gone {
		delete(p.trash, name)
	}
	if err != nil && !gone {
		return err
	}
	delete(p.objects, id)
	if gone {
		// An earlier try may have renamed it and failed to commit.
		return p.store.commit()
	}
	p.trash[name] = o.Lineage // again: emptyTrash may have looked before the rename
	return nil
}

func (p *pool) hasTrash() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.trash) > 0
}

// tidy does what is left over: empties the trash, restores the ballast.
func (p *pool) tidy(ctx context.Context) {
	if err := p.emptyTrash(ctx); err != nil && ctx.Err() == nil {
		p.backend.cfg.Notice(fmt.Sprintf("pool %s: empty the trash: %v; will try again", p.name, err))
	}
	if err := p.ensureBallast(); err != nil {
		p.backend.cfg.Notice(fmt.Sprintf("pool %s: %v; will try again", p.name, err))
	}
}

// emptyTrash frees what was deleted and returns when the space is back. Several
// callers may do it at once: each step may find that another was faster.
func (p *pool) emptyTrash(ctx context.Context) error {
	p.mu.Lock()
	names := slices.Collect(maps.Keys(p.trash))
	p.mu.Unlock()
	if len(names) == 0 {
		return nil
	}
	var tickets []uint64
	for _, name := range names {
		ticket, err := p.removeTrashData(name)
		if err != nil {
			return err
		}
		if ticket != 0 {
			tickets = append(tickets, ticket)
		}
	}
	if err := p.store.waitFreed(ctx, tickets); err != nil {
		return err
	}
	for _, name := range names {
		if err := p.removeAll(trashDir + "/" + name); err != nil {
			return err
		}
		p.mu.Lock()
		delete(p.trash, name)
		p.mu.Unlock()
	}
	return nil
}

func (p *pool) removeTrashData(name string) (uint64, error) {
	dir, err := p.openObject(trashDir + "/" + name)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer dir.Close()
	ticket, err := p.store.removeData(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	return ticket, err
}

// loadTrash lists what was being deleted when the driver stopped. What cannot be
// read has no lineage and is charged to nobody; it goes all the same.
func (p *pool) loadTrash() error {
	entries, err := fs.ReadDir(p.root.FS(), trashDir)
	if err != nil {
		return fmt.Errorf("list the trash: %w", err)
	}
	for _, e := range entries {
		var lineage volume.ID
		if id, ok := trashedID(e.Name()); ok {
			if r, _, err := readRecord(p.root, trashDir+"/"+e.Name(), id); err == nil {
				lineage = r.Lineage
			}
		}
		p.trash[e.Name()] = lineage
	}
	return nil
}

// trashedID is the id in a name of .trash, "<id>.<time>".
func trashedID(name string) (volume.ID, bool) {
	i := strings.LastIndexByte(name, '.')
	if i < 0 {
		return "", false
	}
	for _, kind := range []volume.Kind{volume.KindVolume, volume.KindSnapshot} {
		if id, err := volume.ParseID(kind, name[:i]); err == nil {
			return id, true
		}
	}
	return "", false
}
