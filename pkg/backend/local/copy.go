package local

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// createCopy makes a volume from a snapshot or from another volume: in the pool
// of its source, sharing all extents.
func (b *Backend) createCopy(ctx context.Context, spec volume.Spec) (object, error) {
	p, src, err := b.source(spec)
	if err != nil {
		return object{}, err
	}
	format, err := spec.Format.Resolve(&src.Format)
	if err != nil {
		return object{}, err
	}
	size, err := volume.Fit(atLeast(spec.Size), spec.Limit, src.Size)
	if err != nil {
		return object{}, err
	}
	id := volume.NewID(volume.KindVolume, p.id, spec.Name)
	r := record{ID: id, Name: spec.Name, Size: size, Format: format, Source: spec.Source, BirthSize: src.BirthSize}
	return p.build(ctx, "copy-volume", r, src.ID, func(dir *os.File) error {
		return p.copyImage(ctx, src, dir, r, volume.ConsistencyFilesystem)
	})
}

// source finds what a new volume is made from and checks that the pool it is in
// is one that the request allows.
func (b *Backend) source(spec volume.Spec) (*pool, object, error) {
	kind, id := volume.KindSnapshot, spec.Source.Snapshot
	if id == "" {
		kind, id = volume.KindVolume, spec.Source.Volume
	}
	p, err := b.poolOf(kind, id)
	if err != nil {
		return nil, object{}, err
	}
	src, err := p.find(id)
	if err != nil {
		return nil, object{}, fmt.Errorf("the source: %w", err)
	}
	if spec.Pool != "" && spec.Pool != p.name {
		return nil, object{}, fmt.Errorf("%w: the source %s is in pool %s, the class asks for pool %s; a copy shares space with its source and stays in its pool", volume.ErrInvalid, id, p.name, spec.Pool)
	}
	return p, src, p.checkAllowed(spec.Allowed)
}

// copyImage fills the open directory with a writable copy of src's data at one
// instant, as long as r says. The filesystem inside stays as large as it was;
// the node grows it.
func (p *pool) copyImage(ctx context.Context, src object, dir *os.File, r record, consistency volume.Consistency) error {
	if err := p.copyData(ctx, src, dir, false, consistency); err != nil {
		return err
	}
	if r.Size == src.Size {
		return nil
	}
	img, err := openAt(dir, dataDir+"/"+imageFile, unix.O_RDWR)
	if err != nil {
		return err
	}
	defer img.Close()
	if err := img.Truncate(int64(r.Size)); err != nil {
		return fmt.Errorf("lengthen the copy of %s to %s: %w", src.ID, r.Size, err)
	}
	return nil
}

// copyData makes dir's data/ a copy of the source's, at an instant when nothing
// of what was written is still on its way to the image.
func (p *pool) copyData(ctx context.Context, src object, dir *os.File, readOnly bool, consistency volume.Consistency) error {
	img, err := p.openImage(src, unix.O_RDONLY)
	if err != nil {
		return err
	}
	if err := img.Close(); err != nil {
		return fmt.Errorf("close the image of %s: %w", src.ID, err)
	}
	from, err := p.openObject(src.dir)
	if err != nil {
		return err
	}
	defer from.Close()
	if src.ID.Kind() == volume.KindVolume { // a snapshot has no writers who wait
		defer p.forgetInPlace(src.ID)
		if err := p.store.prepareCopy(ctx, from, dir, p.confirm); err != nil {
			return err
		}
	}
	return p.quiesced(ctx, src, consistency, func() error {
		if err := p.confirm(); err != nil {
			return err
		}
		if err := p.coverBlocks(src.Format); err != nil {
			return err
		}
		// Also on error, for the copy may exist although it is not used.
		defer p.forgetInPlace(src.ID)
		return p.store.copyData(from, dir, readOnly)
	})
}
