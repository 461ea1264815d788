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
//	free - metadata reserve >= sum of charges + what is new
//
// where the metadata reserve is a quarter of the right-hand side (measured: 200
// MiB of 4 KiB overwrites cost 11 % metadata, 23 % with a snapshot live).
//
// A volume that was never copied overwrites its blocks in place and may still
// need its size less what it has allocated. One that was copied once, or is a
// copy, may need new space for every block that it overwrites, also when all its
// relatives are gone (store.copied): it is charged with its whole size, for
// ever.

// withReserve is n and the metadata that n bytes of data may need.
func withReserve(n volume.Bytes) volume.Bytes { return n + n/4 }

// admit promises size more bytes to id, and to source, which it will be a copy
// of, what source will be charged with more once it was copied; source is "" if
// there is none. The promise holds until release is called. It is ErrNoSpace if
// the pool cannot keep it, after the trash has been emptied if that could help.
func (p *pool) admit(ctx context.Context, id volume.ID, size volume.Bytes, source volume.ID) error {
	err := p.tryAdmit(id, size, source)
	if !errors.Is(err, volume.ErrNoSpace) {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, trashWait)
	defer cancel()
	if terr := p.emptyTrash(wait); terr != nil {
		return fmt.Errorf("%w (deleted volumes are still being freed, try again: %v)", err, terr)
	}
	// What others freed counts only from the next commit on.
	if cerr := p.store.commit(); cerr != nil {
		return errors.Join(err, cerr)
	}
	return p.tryAdmit(id, size, source)
}

// trashWait bounds how long a request waits for space of deleted volumes.
const trashWait = 10 * time.Second

func (p *pool) tryAdmit(id volume.ID, size volume.Bytes, source volume.ID) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	free, owed, err := p.spaceLocked()
	if err != nil {
		return err
	}
	want := size
	if o, ok := p.objects[source]; ok && source.Kind() == volume.KindVolume {
		now, err := p.chargeOf(*o)
		if err != nil {
			return err
		}
		after := *o
		after.copied = true
		then, err := p.chargeOf(after)
		if err != nil {
			return err
		}
		want += then - now
	}
	if need := withReserve(owed + want); need > free {
		return fmt.Errorf("%w: pool %s has %s free, of which %s are promised to its volumes; %s more need %s of reserve too; delete volumes or snapshots, or enlarge the pool",
			volume.ErrNoSpace, p.name, free, owed, want, need-owed-want)
	}
	p.promised[id] += want
	return nil
}

func (p *pool) release(id volume.ID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.promised, id)
}

// markCopied charges a volume for having been copied.
func (p *pool) markCopied(id volume.ID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if o, ok := p.objects[id]; ok {
		o.copied = true
	}
}

// room is the size of the largest volume that would be admitted now.
func (p *pool) room() (volume.Bytes, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	free, owed, err := p.spaceLocked()
	return roomIn(free, owed), err
}

// roomIn inverts withReserve.
func roomIn(free, owed volume.Bytes) volume.Bytes {
	return max(0, free/5*4-owed) / volume.Alignment * volume.Alignment
}

// spaceLocked is what is free and what is owed, in bytes, at one instant.
func (p *pool) spaceLocked() (free, owed volume.Bytes, err error) {
	for _, n := range p.promised {
		owed += n
	}
	for id, o := range p.objects {
		if id.Kind() != volume.KindVolume {
			continue
		}
		charge, err := p.chargeOf(*o)
		if err != nil {
			return 0, 0, err
		}
		owed += charge
	}
	free, err = p.store.free()
	return free, owed, err
}

// chargeOf is what a volume may still need from the pool. An image that a crash
// left longer than its record may be filled to its end.
func (p *pool) chargeOf(o object) (volume.Bytes, error) {
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
	if o.copied {
		return length, nil
	}
	const statBlock = 512 // stat(2): st_blocks is in units of 512 bytes
	return max(0, length-volume.Bytes(st.Blocks)*statBlock), nil
}
