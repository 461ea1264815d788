package local

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// The space promise: no volume meets a full pool before it is full itself. A
// volume is charged with what it may still need from the pool, and something new
// is admitted only if
//
//	sum of charges + what is new <= what the free space covers
//
// where space.Cover leaves room for the metadata. With an overcommit of k, k-1
// times the pool's size is promised beyond that, and the guard stands in for it.
//
// Why this holds from one admission to the next, whatever is written: a write to a
// block that is in place needs nothing; a write to another needs as much space as
// the charge falls by; deletions only help. Old extents that a few live blocks pin
// are seen as less free space. What could raise a charge is admitted like a new
// volume: growing, and copying, after which nothing of the source is in place.
//
// A charge is an upper bound. It falls only when it is measured: see measure.go.

// admit promises size more bytes to id, and to source, which it will be a copy
// of, what source will be charged with more once it was copied; source is "" if
// there is none. The promise holds until release is called. It is ErrNoSpace if
// the pool cannot keep it, after the trash has been emptied and all charges were
// measured if that could help.
func (p *pool) admit(ctx context.Context, id volume.ID, size volume.Bytes, source volume.ID) (err error) {
	defer func() {
		if errors.Is(err, volume.ErrNoSpace) {
			p.tally().refused.Add(1)
		}
	}()
	err = p.tryAdmit(id, size, source)
	if !errors.Is(err, volume.ErrNoSpace) {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, trashWait)
	defer cancel()
	terr := p.emptyTrash(wait)
	// What others freed counts only from the next commit on.
	if cerr := p.store.commit(); cerr != nil {
		return errors.Join(err, cerr)
	}
	merr := p.measureAll(wait)
	switch err := p.tryAdmit(id, size, source); {
	case !errors.Is(err, volume.ErrNoSpace):
		return err
	case terr != nil:
		return fmt.Errorf("%w (deleted volumes are still being freed, try again: %v)", err, terr)
	case merr != nil:
		return fmt.Errorf("%w (not all volumes could be measured in time, try again: %v)", err, merr)
	default:
		return err
	}
}

// trashWait bounds how long a request waits for space of deleted volumes, and for
// the measurement of the others.
const trashWait = 10 * time.Second

// promise is what an operation under way may need: size more bytes, and the whole
// length of the source that it copies, in which then nothing is in place.
type promise struct {
	size   volume.Bytes
	source volume.ID
	blocks bool // to a block volume that is not there yet
}

func (p *pool) tryAdmit(id volume.ID, size volume.Bytes, source volume.ID) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.promised[id] = promise{size: size, source: source}
	err := p.keptLocked()
	if err != nil {
		delete(p.promised, id)
	}
	return err
}

// confirm says whether everything that was promised can still be kept. Between
// the admission of a copy and the copy its source may have taken new space, which
// its charge fell by, and now it is charged with everything again.
func (p *pool) confirm() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.keptLocked()
}

func (p *pool) keptLocked() error {
	b, err := p.balanceLocked()
	if err != nil {
		return err
	}
	if err := p.checkWatermark(b.space); err != nil || b.owed <= b.limit {
		return err
	}
	return fmt.Errorf("%w: pool %s has %s free, which is enough for promises of %s and their metadata; with this one they would be %s; delete volumes or snapshots, or enlarge the pool",
		volume.ErrNoSpace, p.name, b.Free, b.limit, b.owed)
}

func (p *pool) release(id volume.ID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.promised, id)
}

// room is the size of the largest volume that would be admitted now.
func (p *pool) room() (volume.Bytes, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	b, err := p.balanceLocked()
	if _, below := p.belowWatermark(b.space); below {
		return 0, err
	}
	return b.room() / volume.Alignment * volume.Alignment, err
}

// balance is the pool's account at one instant, in bytes.
type balance struct {
	space
	owed  volume.Bytes // sum of all charges
	limit volume.Bytes // the largest sum that is admitted
}

func (b balance) room() volume.Bytes { return max(0, b.limit-b.owed) }

func (p *pool) balanceLocked() (balance, error) {
	var b balance
	for _, pr := range p.promised {
		b.owed += pr.size
	}
	sources := p.sourcesLocked()
	copies, err := p.checkCopies()
	if err != nil {
		return balance{}, err
	}
	for _, c := range copies {
		b.owed += c.charge
	}
	for id, o := range p.objects {
		if id.Kind() != volume.KindVolume {
			continue
		}
		charge, err := p.chargeOf(*o, sources[id])
		if err != nil {
			return balance{}, err
		}
		b.owed += charge
	}
	for id := range p.rotten {
		charge, err := p.chargeOfRotten(id)
		if err != nil {
			return balance{}, err
		}
		b.owed += charge
	}
	if b.space, err = p.store.space(); err != nil {
		return balance{}, err
	}
	b.limit = b.Cover
	if k := p.backend.cfg.Overcommit; k > 1 {
		b.limit += volume.Bytes((k - 1) * float64(b.Total))
	}
	return b, nil
}

// sourcesLocked are the volumes that are about to be copied.
func (p *pool) sourcesLocked() map[volume.ID]bool {
	sources := map[volume.ID]bool{}
	for _, pr := range p.promised {
		sources[pr.source] = true
	}
	return sources
}

// chargeOfRotten is what a volume without a readable record may still need: it may
// be mounted, from before the record was damaged, and nothing is known of it.
func (p *pool) chargeOfRotten(id volume.ID) (volume.Bytes, error) {
	if id.Kind() != volume.KindVolume {
		return 0, nil
	}
	var st unix.Stat_t
	name := objectDir(id) + "/" + dataDir + "/" + imageFile
	err := unix.Fstatat(int(p.dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("stat %s: %w", name, err)
	}
	return volume.Bytes(st.Size), nil
}

// chargeOf is what a volume may still need from the pool; toCopy says that it is
// about to be copied. An image that a crash left longer than its record may be
// filled to its end. It asks the kernel only about volumes that were never copied:
// with a thousand volumes an admission asks a thousand times, a copy once more while
// its source is frozen.
func (p *pool) chargeOf(o object, toCopy bool) (volume.Bytes, error) {
	switch length := max(o.Size, o.length); {
	case toCopy:
		return length, nil
	case o.copied:
		return max(0, length-o.inPlace), nil
	}
	var st unix.Stat_t
	name := o.dir + "/" + dataDir + "/" + imageFile
	err := unix.Fstatat(int(p.dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		// It is on its way to the trash: its space is not back yet.
		return o.Size, nil
	}
	if err != nil {
		return 0, fmt.Errorf("stat %s: %w", name, err)
	}
	length := max(o.Size, volume.Bytes(st.Size))
	return max(0, length-p.store.dataIn(volume.Bytes(st.Blocks)*statBlock)), nil
}
