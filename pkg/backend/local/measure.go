package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// Measuring walks the extents of a volume that was copied to see how much of it
// is in place again. It is done in the background, and at once when something
// would not be admitted otherwise.

// measured is the last measurement of a volume.
type measured struct {
	usage
	at time.Time // zero: never
	// The image's change time then. One that did not change since need not be
	// measured again.
	ctime unix.Timespec
}

// measureAll measures every volume whose charge may have fallen. One that cannot
// be measured does not hold up the others.
func (p *pool) measureAll(ctx context.Context) error {
	var errs []error
	for _, id := range p.copiedVolumes() {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(errs, context.Cause(ctx))...)
		}
		if err := p.measure(id); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// measureSoon does the same in the background: it rests ten times as long as each
// measurement took.
func (p *pool) measureSoon(ctx context.Context) error {
	var errs []error
	for _, id := range p.copiedVolumes() {
		start := time.Now()
		if err := p.measure(id); err != nil {
			errs = append(errs, err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(10 * time.Since(start)):
		}
	}
	return errors.Join(errs...)
}

func (p *pool) copiedVolumes() []volume.ID {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []volume.ID
	for id, o := range p.objects {
		if id.Kind() == volume.KindVolume && o.copied && o.damage == nil {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

// measure lowers the charge of a volume to what it really may still need. A volume
// that is gone, or did not change since the last time, is success.
func (p *pool) measure(id volume.ID) error {
	p.mu.Lock()
	o, ok := p.objects[id]
	if !ok {
		p.mu.Unlock()
		return nil
	}
	before, dirName := o.epoch, o.dir
	last := o.last
	p.mu.Unlock()
	start := time.Now()
	var st unix.Stat_t
	err := unix.Fstatat(int(p.dir.Fd()), dirName+"/"+dataDir+"/"+imageFile, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == nil && !last.at.IsZero() && st.Ctim == last.ctime && start.Sub(last.at) < measureAgain {
		return nil
	}
	if err == nil {
		var u usage
		if u, err = p.usageOf(dirName); err == nil {
			return p.settleUsage(id, before, measured{usage: u, at: start, ctime: st.Ctim})
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil // deleted just now
	}
	return fmt.Errorf("measure %s: %w", id, err)
}

// measureAgain bounds how long a change that the change time does not show stays
// unseen: writes through a mapping, and those within one tick of the clock.
const measureAgain = 10 * time.Minute

func (p *pool) usageOf(dirName string) (usage, error) {
	dir, err := p.openObject(dirName)
	if err != nil {
		return usage{}, err
	}
	defer dir.Close()
	return p.store.usage(dir)
}

// settleUsage takes a measurement over, unless the volume was copied or trimmed
// while it was made: then it says too much. While a check has a copy, of this volume
// or another, it may say too little: what was known before holds beside the charge
// of the copy, and the next measurement is not spared.
func (p *pool) settleUsage(id volume.ID, epoch int, m measured) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	o, ok := p.objects[id]
	if !ok || o.epoch != epoch {
		return nil
	}
	copies, err := p.checkCopies()
	if len(copies) > 0 || err != nil {
		m.InPlace, m.ctime = max(m.InPlace, o.inPlace), unix.Timespec{}
	}
	o.inPlace, o.last = m.InPlace, m
	return err
}

// forgetAllMeasured makes every volume be measured again, whether it was written to or
// not: what shared with it is gone.
func (p *pool) forgetAllMeasured() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, o := range p.objects {
		o.last.at = time.Time{}
	}
}

// forgetInPlace charges a volume with its whole size again, after it was copied or
// trimmed, until it is measured anew. While that is under way a promise covers it.
func (p *pool) forgetInPlace(id volume.ID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if o, ok := p.objects[id]; ok {
		o.copied, o.inPlace, o.last = true, 0, measured{}
		o.epoch++
	}
}
