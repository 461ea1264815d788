package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/filesystem"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// Volume implements backend.Provisioner and backend.Attacher.
func (b *Backend) Volume(_ context.Context, id volume.ID) (volume.Volume, error) {
	p, err := b.poolOf(volume.KindVolume, id)
	if err != nil {
		return volume.Volume{}, err
	}
	o, err := p.find(id)
	return o.volume(), err
}

// Volumes implements backend.Provisioner.
func (b *Backend) Volumes(context.Context) ([]volume.Volume, error) {
	return collect(b, volume.KindVolume, record.volume), nil
}

// collect lists the objects of a kind in all open pools, in order of ID.
func collect[T any](b *Backend, kind volume.Kind, convert func(record) T) []T {
	var found []record
	for _, p := range b.available() {
		p.mu.Lock()
		for id, o := range p.objects {
			if id.Kind() == kind && o.damage == nil {
				found = append(found, o.record)
			}
		}
		p.mu.Unlock()
	}
	slices.SortFunc(found, func(x, y record) int {
		switch {
		case x.ID < y.ID:
			return -1
		case x.ID > y.ID:
			return 1
		}
		return 0
	})
	out := make([]T, 0, len(found))
	for _, r := range found {
		out = append(out, convert(r))
	}
	return out
}

// CreateVolume implements backend.Provisioner.
func (b *Backend) CreateVolume(ctx context.Context, spec volume.Spec) (volume.Volume, error) {
	end, err := b.begin(ctx, volume.KindVolume, volume.HashName(spec.Name))
	if err != nil {
		return volume.Volume{}, err
	}
	defer end()
	existing, where, err := b.volumeNamed(spec.Name)
	if err != nil {
		return volume.Volume{}, err
	}
	if where != nil {
		return existing.volume(), b.checkExisting(existing.volume(), where, spec)
	}
	var o object
	if spec.Source.IsZero() {
		o, err = b.createEmpty(ctx, spec)
	} else {
		o, err = b.createCopy(ctx, spec)
	}
	if err != nil {
		b.suspect(err)
		return volume.Volume{}, fmt.Errorf("create volume %q: %w", spec.Name, noSpace(err))
	}
	return o.volume(), nil
}

// volumeNamed finds the volume that was made under a name, in whatever pool.
func (b *Backend) volumeNamed(name string) (object, *pool, error) {
	for _, p := range b.available() {
		o, ok, err := p.existing(volume.NewID(volume.KindVolume, p.id, name))
		if err != nil {
			return object{}, nil, err
		}
		if ok {
			return o, p, nil
		}
	}
	return object{}, nil, nil
}

// checkExisting compares the volume that a name has with what is asked for now.
func (b *Backend) checkExisting(v volume.Volume, p *pool, spec volume.Spec) error {
	if spec.Pool != "" && spec.Pool != p.name {
		return fmt.Errorf("%w: volume %q exists in pool %s, asked for pool %s", volume.ErrExists, spec.Name, p.name, spec.Pool)
	}
	if err := p.checkAllowed(spec.Allowed); err != nil {
		return fmt.Errorf("%w: volume %q exists in pool %s, which is not in the topology that was asked for", volume.ErrExists, spec.Name, p.name)
	}
	return v.Matches(spec)
}

func (b *Backend) createEmpty(ctx context.Context, spec volume.Spec) (object, error) {
	format, err := spec.Format.Resolve(nil)
	if err != nil {
		return object{}, err
	}
	size, err := volume.Fit(spec.Size, spec.Limit, format.MinSize())
	if err != nil {
		return object{}, err
	}
	p, err := b.choosePool(spec)
	if err != nil {
		return object{}, err
	}
	id := volume.NewID(volume.KindVolume, p.id, spec.Name)
	r := record{ID: id, Name: spec.Name, Size: size, Format: format, BirthSize: size}
	return p.build(ctx, "create-volume", r, "", func(dir *os.File) error {
		return p.makeImage(ctx, dir, r)
	})
}

// makeImage makes an empty image of the record's size and, in a filesystem
// volume, formats it. Only here is anything ever formatted: the file is new.
func (p *pool) makeImage(ctx context.Context, dir *os.File, r record) error {
	img, err := p.store.createImage(dir)
	if err != nil {
		return err
	}
	defer img.Close()
	if err := img.Truncate(int64(r.Size)); err != nil {
		return fmt.Errorf("size the image of %s: %w", r.ID, err)
	}
	if r.Format.Mode != volume.ModeFilesystem {
		return nil
	}
	// By descriptor, so that the program writes to this very file.
	path := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), img.Fd())
	return filesystem.Format(ctx, p.backend.cfg.Runner, path, r.Format)
}

// DeleteVolume implements backend.Provisioner.
func (b *Backend) DeleteVolume(ctx context.Context, id volume.ID) error {
	return b.delete(ctx, "delete-volume", volume.KindVolume, id)
}

// ExpandVolume implements backend.Provisioner.
func (b *Backend) ExpandVolume(ctx context.Context, id volume.ID, size, limit volume.Bytes) (volume.Volume, error) {
	p, err := b.poolOf(volume.KindVolume, id)
	if err != nil {
		return volume.Volume{}, err
	}
	end, err := b.begin(ctx, volume.KindVolume, id.Hash())
	if err != nil {
		return volume.Volume{}, err
	}
	defer end()
	o, err := p.find(id)
	if err != nil {
		return volume.Volume{}, err
	}
	size, err = volume.Fit(atLeast(size), limit, o.Size)
	if err != nil {
		return volume.Volume{}, fmt.Errorf("grow %s from %s: %w", id, o.Size, err)
	}
	if size == o.Size {
		return o.volume(), nil
	}
	// What an earlier try has lengthened the image by is charged already.
	err = p.admit(ctx, id, max(0, size-max(o.Size, o.length)), "")
	if err == nil {
		defer p.release(id)
		if err = p.coverBlocks(o.Format); err == nil {
			err = p.withBallast(func() error { return p.grow(&o, size) })
		}
	}
	if errors.Is(err, volume.ErrNoSpace) {
		// Kubernetes takes RESOURCE_EXHAUSTED for passing and would never let the
		// user lower the claim (external-resizer).
		err = fmt.Errorf("%w: %v", volume.ErrOutOfRange, err)
	}
	if err != nil {
		b.suspect(err)
		return volume.Volume{}, fmt.Errorf("grow %s from %s to %s: %w", id, o.Size, size, err)
	}
	return o.volume(), nil
}

// grow lengthens the image, then the record: an image that is longer than its
// record is legal, a shorter one is data loss.
func (p *pool) grow(o *object, size volume.Bytes) error {
	at := p.backend.cfg.Fault
	img, err := p.openImage(*o, unix.O_RDWR)
	if err != nil {
		return err
	}
	defer img.Close()
	st, err := img.Stat()
	if err != nil {
		return fmt.Errorf("stat the image: %w", err)
	}
	p.lengthen(o.ID, size)
	if st.Size() < int64(size) {
		if err := img.Truncate(int64(size)); err != nil {
			return fmt.Errorf("lengthen the image: %w", err)
		}
	}
	if err := at.At("expand-volume/lengthened"); err != nil {
		return err
	}
	if err := img.Sync(); err != nil {
		return fmt.Errorf("sync the image: %w", err)
	}
	r := o.record
	r.Size = size
	if err := writeRecord(p.root, o.dir, r); err != nil {
		return err
	}
	if err := at.At("expand-volume/recorded"); err != nil {
		return err
	}
	*o, err = p.indexFromDisk(o.ID)
	return err
}

// lengthen charges a volume with what its image is about to get, which it keeps if
// the rest of the growth fails.
func (p *pool) lengthen(id volume.ID, length volume.Bytes) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if o, ok := p.objects[id]; ok {
		o.length = max(o.length, length)
	}
}

// atLeast is a required size where a missing one means what there is, not
// volume.DefaultSize. A negative one stays what it is, for Fit to refuse.
func atLeast(size volume.Bytes) volume.Bytes {
	if size == 0 {
		return 1
	}
	return size
}

// noSpace gives the kernel's ENOSPC its meaning.
func noSpace(err error) error {
	if errors.Is(err, unix.ENOSPC) && !errors.Is(err, volume.ErrNoSpace) {
		return fmt.Errorf("%w: %w", volume.ErrNoSpace, err)
	}
	return err
}
