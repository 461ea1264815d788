package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"time"

	"golang.org/x/sys/unix"

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
		if err := p.checkUnused(id); err != nil {
			return err
		}
	}
	err = p.withBallast(func() error { return p.toTrash(op, id) })
	if errors.Is(err, volume.ErrNoSpace) {
		err = p.deleteInPlace(id)
	}
	if err != nil {
		b.suspect(err)
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
	if err := p.checkReadable(id); err != nil {
		return err
	}
	// A trash name of its own, for a name may be created and deleted again while
	// its first life is still in the trash.
	name := fmt.Sprintf("%s.%d", id, time.Now().UnixNano())
	err := p.rename(objectDir(id), trashDir+"/"+name, func() error { return at.At(op + "/renamed") })
	gone := errors.Is(err, fs.ErrNotExist)
	p.mu.Lock()
	defer p.mu.Unlock()
	if !gone {
		p.trash[name] = 0 // also if the commit failed: it is there
	}
	if err != nil && !gone {
		return err
	}
	delete(p.objects, id)
	p.backend.health.forget(id)
	if gone {
		// An earlier try may have renamed it and failed to commit.
		return p.store.commit()
	}
	return nil
}

// deleteInPlace is the way out when not even the metadata of a rename finds room:
// for unlinking and for destroying a subvolume btrfs keeps a reserve. Without its
// record the object does not exist any more, durably; a crash before the rest is
// gone leaves it to quarantine.
func (p *pool) deleteInPlace(id volume.ID) error {
	dir := objectDir(id)
	for _, name := range []string{recordFile(id.Kind()) + previousSuffix, recordFile(id.Kind())} {
		if err := p.root.Remove(dir + "/" + name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove its record from a full pool: %w", err)
		}
	}
	p.mu.Lock()
	delete(p.objects, id)
	p.mu.Unlock()
	if err := p.discard(dir); err != nil {
		return err
	}
	return p.store.commit()
}

// checkReadable refuses to delete what is there and cannot be read: a person may
// still save something of it.
func (p *pool) checkReadable(id volume.ID) error {
	if _, ok := p.lookup(id); ok {
		return nil
	}
	_, err := p.loadObject(id)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return fmt.Errorf("%w; it is not deleted: save what can be saved and remove %s from the pool by hand", err, objectDir(id))
}

// tidy does what is left over: empties the trash, removes what a check that was
// killed left, grows into a disk that became
// larger, restores the ballast.
func (p *pool) tidy(ctx context.Context) {
	if err := p.emptyTrash(ctx); err != nil && ctx.Err() == nil {
		p.backend.suspect(err)
		p.backend.notice(CleanupFailed, "pool %s: empty the trash: %v; will try again", p.name, err)
	}
	if err := p.discardOldCopies(ctx); err != nil && ctx.Err() == nil {
		p.backend.notice(CleanupFailed, "pool %s: remove what a check left behind: %v; will try again", p.name, err)
	}
	if err := p.growToDevice(); err != nil {
		p.tellUngrown(err)
	}
	if err := p.ensureBallast(); err != nil {
		p.backend.notice(BallastMissing, "pool %s: %v; will try again", p.name, err)
	}
}

// emptyTrash frees what was deleted and returns when the space is back. An entry
// that cannot be removed does not hold up the others. Several callers may do it
// at once: each step may find that another was faster.
func (p *pool) emptyTrash(ctx context.Context) error {
	p.mu.Lock()
	entries := maps.Clone(p.trash)
	p.mu.Unlock()
	if len(entries) == 0 {
		return nil
	}
	var errs []error
	var tickets []uint64
	for name, ticket := range entries {
		if ticket == 0 {
			var err error
			if ticket, err = p.removeTrashData(name); err != nil {
				errs = append(errs, err)
				delete(entries, name)
				continue
			}
		}
		if ticket != 0 {
			tickets = append(tickets, ticket)
		}
	}
	if err := p.backend.cfg.Fault.At("empty-trash/destroyed"); err != nil {
		return err
	}
	if err := p.store.waitFreed(ctx, tickets); err != nil {
		return errors.Join(append(errs, err)...)
	}
	for name := range entries {
		if err := p.removeAll(trashDir + "/" + name); err != nil {
			errs = append(errs, err)
			continue
		}
		p.mu.Lock()
		delete(p.trash, name)
		p.mu.Unlock()
		p.tally().trashEmptied.Add(1)
	}
	if p.store.unshares() {
		p.forgetAllMeasured()
	}
	return errors.Join(errs...)
}

// removeTrashData removes the data of an entry and keeps the ticket, for whoever
// else waits for the space.
func (p *pool) removeTrashData(name string) (uint64, error) {
	dir, err := p.openObject(trashDir + "/" + name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer dir.Close()
	p.trashMu.Lock()
	defer p.trashMu.Unlock()
	if ticket := p.ticketOf(name); ticket != 0 {
		return ticket, nil
	}
	ticket, err := p.store.removeData(dir)
	if err != nil {
		return 0, fmt.Errorf("remove the data of %s/%s: %w", trashDir, name, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.trash[name]; ok {
		p.trash[name] = ticket
	}
	return ticket, nil
}

func (p *pool) ticketOf(name string) uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.trash[name]
}

// loadTrash lists what was being deleted when the driver stopped.
func (p *pool) loadTrash() error {
	entries, err := fs.ReadDir(p.root.FS(), trashDir)
	if err != nil {
		return fmt.Errorf("list the trash: %w", err)
	}
	for _, e := range entries {
		p.trash[e.Name()] = 0
	}
	return nil
}
