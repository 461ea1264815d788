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
// A volume that is alone in its lineage overwrites its blocks in place and may
// still need its size less what it has allocated. One that shares anything may
// have to copy all of it and is charged with its whole size; so it is while the
// deleted relative is in the trash.

// withReserve is n and the metadata that n bytes of data may need.
func withReserve(n volume.Bytes) volume.Bytes { return n + n/4 }

// admit promises size more bytes to id, plus what the members of lineage will
// be charged with once they share with id. The promise holds until the object is
// in the index or release is called. It is ErrNoSpace if the pool cannot keep
// it, after the trash has been emptied if that could help.
func (p *pool) admit(ctx context.Context, id volume.ID, size volume.Bytes, lineage volume.ID) error {
	err := p.tryAdmit(id, size, lineage)
	if !errors.Is(err, volume.ErrNoSpace) || !p.hasTrash() {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, trashWait)
	defer cancel()
	if terr := p.emptyTrash(wait); terr != nil {
		return fmt.Errorf("%w (deleted volumes are still being freed, try again: %v)", err, terr)
	}
	return p.tryAdmit(id, size, lineage)
}

// trashWait bounds how long a request waits for space of deleted volumes.
const trashWait = 10 * time.Second

func (p *pool) tryAdmit(id volume.ID, size volume.Bytes, lineage volume.ID) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	free, charges, err := p.spaceLocked()
	if err != nil {
		return err
	}
	want := size + charges.ifShared(lineage)
	if need := withReserve(charges.total + want); need > free {
		return fmt.Errorf("%w: pool %s has %s free, of which %s are promised to its volumes; %s more need %s of reserve too; delete volumes or snapshots, or enlarge the pool",
			volume.ErrNoSpace, p.name, free, charges.total, want, withReserve(charges.total+want)-charges.total-want)
	}
	p.promised[id] += want
	return nil
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
	free, charges, err := p.spaceLocked()
	return charges.room(free), err
}

// spaceLocked is what is free and what is owed, at one instant.
func (p *pool) spaceLocked() (free volume.Bytes, c charges, err error) {
	if c, err = p.chargesLocked(); err != nil {
		return 0, c, err
	}
	free, err = p.store.free()
	return free, c, err
}

// charges is what the pool owes its volumes, in bytes.
type charges struct {
	total volume.Bytes
	// rise is, by lineage, how much more its one member would be charged with if
	// it shared.
	rise map[volume.ID]volume.Bytes
}

func (c charges) ifShared(lineage volume.ID) volume.Bytes { return c.rise[lineage] }

// room inverts withReserve.
func (c charges) room(free volume.Bytes) volume.Bytes {
	return max(0, free/5*4-c.total) / volume.Alignment * volume.Alignment
}

func (p *pool) chargesLocked() (charges, error) {
	members := map[volume.ID]int{}
	for _, o := range p.objects {
		members[o.Lineage]++
	}
	for _, lineage := range p.trash {
		members[lineage]++
	}
	c := charges{rise: map[volume.ID]volume.Bytes{}}
	for _, n := range p.promised {
		c.total += n
	}
	for id, o := range p.objects {
		if id.Kind() != volume.KindVolume {
			continue
		}
		if members[o.Lineage] > 1 {
			c.total += o.Size
			continue
		}
		allocated, err := p.allocated(*o)
		if err != nil {
			return charges{}, err
		}
		c.total += max(0, o.Size-allocated)
		c.rise[o.Lineage] = min(o.Size, allocated)
	}
	return c, nil
}

// allocated is the bytes of an image that have a place on the disk.
func (p *pool) allocated(o object) (volume.Bytes, error) {
	var st unix.Stat_t
	name := o.dir + "/" + dataDir + "/" + imageFile
	err := unix.Fstatat(int(p.dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		// It is on its way to the trash: its space is not back yet.
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("stat %s: %w", name, err)
	}
	const statBlock = 512 // stat(2): st_blocks is in units of 512 bytes
	return volume.Bytes(st.Blocks) * statBlock, nil
}
