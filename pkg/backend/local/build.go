package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/durable"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// build makes an object out of sight and puts it into place with one rename, if
// the pool can promise its space. r is complete but for what only the data can
// tell; source is what it will be a copy of, "" if nothing; fill makes data/ in
// the open staging directory. op names the fault steps.
//
// Order, and what a crash after each step leaves: staging directory, data,
// record (all of it in .staging, emptied at start); a commit, so that the rename
// can never be durable before its content; the rename (the object exists, the
// caller's retry finds it); a commit, so that the answer is true for ever.
func (p *pool) build(ctx context.Context, op string, r record, source volume.ID, fill func(dir *os.File) error) (object, error) {
	at := p.backend.cfg.Fault
	var size volume.Bytes // a snapshot costs what its source is charged for sharing
	if r.ID.Kind() == volume.KindVolume {
		size = r.Size
	}
	if err := p.admit(ctx, r.ID, size, source); err != nil {
		return object{}, err
	}
	defer p.release(r.ID)
	if err := p.coverBlocks(r.Format); err != nil {
		return object{}, err
	}
	p.promisedToBlocks(r)
	if err := p.discardStaging(r.ID); err != nil {
		return object{}, err
	}
	staging := stagingDir + "/" + string(r.ID)
	built := false
	defer func() {
		if !built {
			// The error that brought us here is the one to report; a start or a
			// retry empties what stays.
			_ = p.discardStaging(r.ID)
		}
	}()
	if err := p.root.Mkdir(staging, 0o700); err != nil {
		return object{}, fmt.Errorf("make %s: %w", staging, err)
	}
	if err := at.At(op + "/staged"); err != nil {
		return object{}, err
	}
	if err := p.fillStaging(ctx, op, staging, r, fill); err != nil {
		return object{}, err
	}
	o := object{record: r, dir: objectDir(r.ID)}
	if err := p.rename(staging, o.dir, func() error { return at.At(op + "/renamed") }); err != nil {
		return object{}, err
	}
	built = true
	return p.indexFromDisk(r.ID)
}

func (p *pool) fillStaging(ctx context.Context, op, staging string, r record, fill func(dir *os.File) error) error {
	at := p.backend.cfg.Fault
	dir, err := p.openObject(staging)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := fill(dir); err != nil {
		return err
	}
	if err := at.At(op + "/filled"); err != nil {
		return err
	}
	if r.DataUUID, err = p.store.dataUUID(dir); err != nil {
		return err
	}
	if r.Created.IsZero() {
		r.Created = time.Now().UTC()
	}
	if err := writeRecord(p.root, staging, r); err != nil {
		return err
	}
	if err := at.At(op + "/recorded"); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s of %s: %w", op, r.ID, context.Cause(ctx))
	}
	return p.store.commit()
}

// rename moves an object directory and makes that durable. A commit of the whole
// filesystem is stronger than syncing both directories, and on btrfs no slower.
// renamed is called between the two.
func (p *pool) rename(from, to string, renamed func() error) error {
	if err := durable.Move(p.root, from, to); err != nil {
		return err
	}
	if err := renamed(); err != nil {
		return err
	}
	return p.store.commit()
}

// indexFromDisk puts the object that lies in its final place into the index,
// and settles its promise. It is ErrNotExist if there is none.
func (p *pool) indexFromDisk(id volume.ID) (object, error) {
	o, err := p.loadObject(id)
	if err != nil {
		return object{}, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if before, ok := p.objects[id]; ok {
		o.inPlace, o.last, o.epoch = before.inPlace, before.last, before.epoch
	}
	p.objects[id] = &o
	delete(p.rotten, id)
	delete(p.promised, id)
	return o, nil
}

// existing is the object that an earlier call made under the same id: from the
// index, or from the disk if that call failed after its rename. ok is false if
// there is none.
func (p *pool) existing(id volume.ID) (o object, ok bool, err error) {
	if o, ok := p.lookup(id); ok {
		return o, true, o.damage
	}
	_, err = p.loadObject(id)
	if errors.Is(err, fs.ErrNotExist) {
		return object{}, false, nil
	}
	if err != nil {
		p.backend.suspect(err)
		return object{}, false, err
	}
	if err := p.store.commit(); err != nil {
		return object{}, false, err
	}
	o, err = p.indexFromDisk(id)
	return o, err == nil, err
}

// loadObject reads an object from its final place. It is fs.ErrNotExist if there
// is nothing there, ErrDataLoss if it is not whole.
func (p *pool) loadObject(id volume.ID) (object, error) {
	name := objectDir(id)
	dir, err := p.openObject(name)
	if err != nil {
		return object{}, fmt.Errorf("look for %s: %w", id, err)
	}
	defer dir.Close()
	return p.loadFrom(dir, name, id)
}

// errNoRecord is a directory without any record: not an object.
var errNoRecord = errors.New("no record")

// loadFrom reads an object from its open directory: a start does it for each, so it
// asks the kernel no more often than it must.
func (p *pool) loadFrom(dir *os.File, name string, id volume.ID) (object, error) {
	r, previous, err := readRecord(dir, id)
	if errors.Is(err, fs.ErrNotExist) {
		return object{}, fmt.Errorf("%w: %s has %w", volume.ErrDataLoss, name, errNoRecord)
	}
	if err != nil {
		return object{}, err
	}
	var st unix.Stat_t
	err = unix.Fstatat(int(dir.Fd()), dataDir+"/"+imageFile, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, fs.ErrNotExist) {
		return object{}, fmt.Errorf("%w: %s has a record but no image", volume.ErrDataLoss, name)
	}
	if err != nil {
		return object{}, fmt.Errorf("look at the image of %s: %w", id, err)
	}
	size := volume.Bytes(st.Size)
	if previous && size > r.Size {
		// The current record is damaged and may have acknowledged this size.
		r.Size = size / volume.Alignment * volume.Alignment
	}
	var damage error
	if size < r.Size {
		damage = cutShort(id, size, r.Size)
	}
	o := object{record: r, dir: name, length: size, damage: damage}
	if id.Kind() == volume.KindVolume { // nothing overwrites a snapshot
		o.copied, err = p.store.copied(dir)
	}
	return o, err
}

// discardStaging removes what an earlier try of the same object left. It never
// was acknowledged.
func (p *pool) discardStaging(id volume.ID) error {
	return p.discard(stagingDir + "/" + string(id))
}

// discard removes an unfinished or dead object directory at once. One that does
// not exist is success.
func (p *pool) discard(name string) error {
	dir, err := p.openObject(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, unix.ENOTDIR):
		return p.removeAll(name)
	case err != nil:
		return err
	}
	_, err = p.store.removeData(dir)
	if cerr := dir.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("remove the data of %s: %w", name, err)
	}
	return p.removeAll(name)
}

func (p *pool) removeAll(name string) error {
	if err := p.root.RemoveAll(name); err != nil {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	return nil
}
