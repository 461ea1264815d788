package local

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// Import makes a volume of what exists already: a directory, or the raw image of a
// disk. It is built like any volume, out of sight, filled, compared with its source
// and then put into place with one rename: it exists completely or not at all.

// ImportSpec asks for a volume with the content of a source.
type ImportSpec struct {
	// Name is the caller's name for the volume, as in volume.Spec.
	Name string
	// Pool is the name of the pool; "" means what it means in volume.Spec.
	Pool string
	// Source is a directory or a regular file, open for reading. It stays the
	// caller's and is only read.
	Source *os.File
	// Size of the volume in bytes; 0 means the smallest that is sensible.
	Size volume.Bytes
	// Format is what is known of it. An empty Mode is a filesystem for a directory and
	// a block device for an image; an image keeps the filesystem and the sectors it
	// has.
	Format volume.Format
	// Progress is told how much has been dealt with of how much, in bytes, of which
	// each counts twice: when it is copied, and when it is read back. It may be nil.
	Progress func(done, total volume.Bytes)
}

// Imported is what Import made.
type Imported struct {
	Volume volume.Volume
	Pool   string
	// Existed says that an earlier import of the same source made it.
	Existed bool
	// Entries is how many files and directories were copied; 0 for an image.
	Entries int
	// Content is how much of the source is no hole, in bytes.
	Content volume.Bytes
	// Notes are what a person should know, in plain words.
	Notes []string
}

// origin is what a record knows of the source that its volume was imported from.
type origin struct {
	// Fingerprint changes when the source does.
	Fingerprint string `json:"fingerprint,omitempty"`
}

// importSource is a source that was looked at.
type importSource interface {
	// format fills in what the caller left open. It is ErrInvalid if the source cannot
	// become what was asked for.
	format(asked volume.Format, size volume.Bytes) (volume.Format, error)
	// fits is the smallest sensible size of a volume of that format; least is the
	// smallest that may be asked for.
	fits(f volume.Format) (size, least volume.Bytes)
	// content is how much is written at most.
	content() volume.Bytes
	// birth is the size of the filesystem in a volume of that size.
	birth(size volume.Bytes) volume.Bytes
	fingerprint() string
	// fill makes data/ in the staging directory, compares it with the source, and
	// makes sure that the source is still what it was.
	fill(ctx context.Context, w *importing, dir *os.File) error
	describe(*Imported)
}

// importing is one import under way.
type importing struct {
	pool     *pool
	record   record
	progress func(volume.Bytes)
	stop     context.CancelCauseFunc // breaks it off
}

// Import makes a volume of a source. The same call made again is success as long as
// the source has not changed. It is ErrExists if the name belongs to another volume,
// ErrInUse if something changes the source, or has it open for writing, ErrNoSpace
// if the pool cannot promise the size, ErrOutOfRange if the content does not fit
// into it, ErrPrecondition if the source cannot be imported as it is, and ErrDataLoss
// if what was written does not read back.
func (b *Backend) Import(ctx context.Context, spec ImportSpec) (Imported, error) {
	if spec.Name == "" {
		return Imported{}, fmt.Errorf("%w: an import needs a name", volume.ErrInvalid)
	}
	end, err := b.begin(ctx, volume.KindVolume, volume.HashName(spec.Name))
	if errors.Is(err, volume.ErrBusy) {
		return Imported{}, fmt.Errorf("%w: an import of %q, or something else that changes that volume, is under way: wait until it has ended, and try again", volume.ErrBusy, spec.Name)
	}
	if err != nil {
		return Imported{}, err
	}
	defer end()
	src, err := lookAt(ctx, spec.Source)
	if err == nil {
		var out Imported
		if out, err = b.importAs(ctx, spec, src); err == nil {
			src.describe(&out)
			return out, nil
		}
	}
	b.suspect(err)
	return Imported{}, fmt.Errorf("import %q: %w", spec.Name, noSpace(err))
}

func lookAt(ctx context.Context, source *os.File) (importSource, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(source.Fd()), &st); err != nil {
		return nil, fmt.Errorf("look at the source: %w", err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return lookAtTree(ctx, source)
	case unix.S_IFREG:
		return lookAtImage(source)
	}
	return nil, fmt.Errorf("%w: the source is neither a directory nor a file", volume.ErrInvalid)
}

func (b *Backend) importAs(ctx context.Context, spec ImportSpec, src importSource) (Imported, error) {
	format, err := src.format(spec.Format, spec.Size)
	if err != nil {
		return Imported{}, err
	}
	have, where, err := b.volumeNamed(spec.Name)
	if err != nil {
		return Imported{}, err
	}
	if where != nil {
		return Imported{Volume: have.volume(), Pool: where.name, Existed: true}, checkImported(have, where, spec, format, src)
	}
	r := record{Name: spec.Name, Format: format, Origin: origin{Fingerprint: src.fingerprint()}}
	size, least := src.fits(format)
	if spec.Size != 0 {
		size = spec.Size
	}
	if size < least {
		return Imported{}, fmt.Errorf("%w: the source has %s, a volume of %s is too small; ask for %s at least", volume.ErrOutOfRange, src.content(), size, least)
	}
	if r.Size, err = volume.Fit(size, 0, max(least, format.MinSize())); err != nil {
		return Imported{}, err
	}
	r.BirthSize = src.birth(r.Size)
	p, err := b.choosePool(volume.Spec{Pool: spec.Pool})
	if err != nil {
		return Imported{}, err
	}
	r.ID = volume.NewID(volume.KindVolume, p.id, spec.Name)
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	w := &importing{pool: p, record: r, progress: counting(2*src.content(), spec.Progress), stop: stop}
	o, err := p.build(ctx, "import-volume", r, "", func(dir *os.File) error {
		if err := p.importCovered(r.ID, src.content()); err != nil {
			return err
		}
		return src.fill(ctx, w, dir)
	})
	if err != nil {
		return Imported{}, err
	}
	return Imported{Volume: o.volume(), Pool: p.name}, nil
}

// checkImported compares the volume that has the name with what is asked for.
func checkImported(have object, p *pool, spec ImportSpec, format volume.Format, src importSource) error {
	exists := func(what string, args ...any) error {
		return fmt.Errorf("%w: volume %q (%s) exists in pool %s, and %s; give another name", volume.ErrExists, spec.Name, have.ID, p.name, fmt.Sprintf(what, args...))
	}
	switch {
	case have.Origin.Fingerprint == "":
		return exists("was not imported")
	case have.Origin.Fingerprint != src.fingerprint():
		return exists("was imported from something else, or its source has changed since")
	case spec.Pool != "" && spec.Pool != p.name:
		return exists("not in pool %s", spec.Pool)
	case have.Format != format:
		return exists("is %s, not %s", have.Format, format)
	case spec.Size > have.Size:
		return exists("has %s, less than %s", have.Size, spec.Size)
	}
	return nil
}

// spending is the progress of what is written to an image: after each piece of
// spendEvery the promise is lowered, and the import ends if the pool cannot spare
// more. What has no content costs room too.
func (w *importing) spending(img *os.File) func(volume.Bytes) {
	const spendEvery, entry = 64 * volume.MiB, 4 * volume.KiB
	var since volume.Bytes
	return func(n volume.Bytes) {
		w.progress(n)
		if since += max(n, entry); since < spendEvery {
			return
		}
		since = 0
		var st unix.Stat_t
		if err := unix.Fstat(int(img.Fd()), &st); err == nil { // else the promise is larger than it must be
			w.spend(st)
		}
		if err := w.pool.importCovered(w.record.ID, 0); err != nil {
			w.stop(fmt.Errorf("broken off: %w", err))
		}
	}
}

// counting makes progress reports of pieces. What was more than expected does not
// show.
func counting(total volume.Bytes, report func(done, total volume.Bytes)) func(volume.Bytes) {
	if report == nil {
		return func(volume.Bytes) {}
	}
	var done volume.Bytes
	return func(n volume.Bytes) {
		done = min(done+n, total)
		report(done, total)
	}
}

// step is a fault step of an import.
func (w *importing) step(name string) error {
	return w.pool.backend.cfg.Fault.At("import-volume/" + name)
}

// tooSmall gives ENOSPC inside the volume that is being filled its meaning: it is
// not the pool that is full.
func tooSmall(err error, size volume.Bytes) error {
	if errors.Is(err, volume.ErrOutOfRange) || errors.Is(err, volume.ErrNoSpace) {
		return err // it says what is too small, or too full
	}
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w: the content does not fit into a volume of %s: ask for a larger one: %v", volume.ErrOutOfRange, size, err)
	}
	return err
}
