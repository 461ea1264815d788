package local

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/backend"
	"github.com/holdfast-csi/holdfast/pkg/filesystem"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// The share of a pool's size, in percent, below which what is free is nearly
// nothing, and above which that is over.
const (
	nearlyFull    = 10
	notNearlyFull = 12
)

// examine looks at one pool and all its volumes, and says of a pool whose
// filesystem is dead that it is unavailable.
func (b *Backend) examine(s *slot) backend.PoolStats {
	before, _ := b.health.last(s.cfg.Name, time.Now())
	p := s.opened()
	if p == nil {
		before.Conditions = []volume.Condition{unavailable(s.describe())}
		return before
	}
	dead, unknown := p.dead(s.cfg)
	if dead != nil && !isFailed(before) { // once more, for a single error proves nothing
		dead, unknown = p.dead(s.cfg)
	}
	if unknown == nil {
		s.setFailed(dead)
	} else {
		dead = s.failure() // nothing new is known
	}
	out := backend.PoolStats{Looked: time.Now(), Image: s.cfg.Size > 0}
	out.Filesystem, _ = p.store.identity()
	w, err := b.health.around.now()
	if err == nil {
		err = p.examineVolumes(w, &out)
	}
	if err == nil && isNews(before.Volumes, out.Volumes) {
		// What one look finds may be two halves of a change; what two find is so.
		if w, err = b.health.around.now(); err == nil {
			err = p.examineVolumes(w, &out)
		}
	}
	if err != nil {
		// What was known stays: volumes that vanish from lists would pass for well, and
		// be told of again. A copy: what was given out is not changed.
		out.Volumes, out.Snapshots, out.Damaged, out.Trash = slices.Clone(before.Volumes), before.Snapshots, before.Damaged, before.Trash
	}
	err = cmp.Or(unknown, err)
	if err != nil && dead == nil {
		out.Conditions = append(out.Conditions, condition(volume.Degraded, PoolUnmeasured, "what is in it cannot be looked at: %v", err))
	}
	if dead != nil {
		out.Conditions = append(out.Conditions, condition(volume.Inaccessible, PoolFailed, "%v", dead))
	} else {
		p.examineSpace(before, &out)
	}
	if s.cfg.Size > 0 && w != nil && dead == nil {
		p.examineImageOfPool(s.cfg, w, &out)
	}
	if p.guard.isFrozen() {
		out.Conditions = append(out.Conditions, condition(volume.Degraded, GuardFroze, "it is full, and the writers of its filesystems wait; delete snapshots or volumes, or enlarge it, and they go on"))
	}
	p.examineStore(&out)
	out.Conditions = volume.Conditions(out.Conditions)
	return out
}

func isFailed(st backend.PoolStats) bool {
	return slices.ContainsFunc(st.Conditions, func(c volume.Condition) bool { return c.Reason == string(PoolFailed) })
}

// dead says why nothing can be written to the pool any more, nil if it can. With
// unknown neither is known.
func (p *pool) dead(cfg PoolConfig) (dead, unknown error) {
	const advice = "look into the kernel's log; repair or replace the disk, mount it again with the driver's pod stopped, and start that"
	var st unix.Statfs_t
	err := unix.Fstatfs(int(p.dir.Fd()), &st)
	if err == nil && st.Flags&unix.ST_RDONLY != 0 {
		return fmt.Errorf("its filesystem at %s is read-only, after an error or because somebody mounted it so; %s", p.dir.Name(), advice), nil
	}
	if err == nil {
		err = filesystem.Alive(p.dir)
	}
	if filesystem.IsDead(err) {
		return fmt.Errorf("its filesystem at %s has shut itself down; %s", p.dir.Name(), advice), nil
	}
	if err != nil || cfg.Size == 0 {
		return nil, err
	}
	// The host's, below a pool image.
	host, err := os.Open(cfg.Dir)
	if err == nil {
		err = filesystem.Alive(host)
		host.Close()
	}
	if filesystem.IsDead(err) {
		return fmt.Errorf("the filesystem below its image, at %s, has shut itself down; %s", cfg.Dir, advice), nil
	}
	// A directory that is gone or hidden does not harm the image that is open.
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return nil, err
}

// examineVolumes looks at every volume of the pool.
func (p *pool) examineVolumes(w *surroundings, out *backend.PoolStats) error {
	out.Volumes, out.Snapshots, out.Damaged = nil, 0, 0
	snapshots := map[volume.ID]int{}
	var ids []volume.ID
	p.mu.Lock()
	for id, o := range p.objects {
		if o.damage != nil {
			out.Damaged++
		}
		if id.Kind() == volume.KindVolume {
			ids = append(ids, id)
			continue
		}
		out.Snapshots++
		snapshots[o.SnapshotOf]++
	}
	for id := range p.rotten {
		out.Damaged++
		if id.Kind() == volume.KindVolume {
			ids = append(ids, id)
		}
	}
	out.Trash = len(p.trash)
	p.mu.Unlock()
	slices.Sort(ids)
	for _, id := range ids {
		v, err := p.examineVolume(id, w)
		if errors.Is(err, volume.ErrNotFound) {
			continue // deleted meanwhile
		}
		if err != nil {
			return err
		}
		v.Snapshots = snapshots[id]
		out.Volumes = append(out.Volumes, v)
	}
	return nil
}

// isNews says whether a volume has a condition now that it did not have before.
func isNews(before, now []backend.VolumeStats) bool {
	had := map[volume.ID][]volume.Condition{}
	for _, v := range before {
		had[v.ID] = v.Conditions
	}
	for _, v := range now {
		for _, c := range v.Conditions {
			if !slices.ContainsFunc(had[v.ID], func(h volume.Condition) bool { return h.Reason == c.Reason }) {
				return true
			}
		}
	}
	return false
}

// examineSpace measures the pool, and what each volume may still need of it.
func (p *pool) examineSpace(before backend.PoolStats, out *backend.PoolStats) {
	p.mu.Lock()
	account, err := p.balanceLocked()
	for i := range out.Volumes {
		v := &out.Volumes[i]
		o, ok := p.objects[v.ID]
		if !ok || err != nil {
			continue
		}
		v.Charge, err = p.chargeOf(*o, false)
	}
	p.mu.Unlock()
	if err != nil {
		out.Conditions = append(out.Conditions, condition(volume.Degraded, PoolUnmeasured, "its space cannot be measured: %v", err))
		return
	}
	out.Size, out.Free, out.Promised, out.Room = account.Total, account.Free, account.owed, account.room()/volume.Alignment*volume.Alignment
	limit := volume.Bytes(nearlyFull)
	if slices.ContainsFunc(before.Conditions, func(c volume.Condition) bool { return c.Reason == string(PoolNearlyFull) }) {
		limit = notNearlyFull
	}
	if account.Free < account.Total/100*limit {
		out.Conditions = append(out.Conditions, condition(volume.Degraded, PoolNearlyFull, "%s of %s are free; delete volumes or snapshots, or enlarge the pool", account.Free, account.Total))
	}
	if account.owed > account.limit {
		out.Conditions = append(out.Conditions, condition(volume.Degraded, PromiseAtRisk, "volumes may still need %s, and what is free is enough for %s; delete volumes or snapshots, or enlarge the pool", account.owed, account.limit))
	}
}

// examineImageOfPool looks at the file that a pool image is.
func (p *pool) examineImageOfPool(cfg PoolConfig, w *surroundings, out *backend.PoolStats) {
	add := func(c volume.Condition) { out.Conditions = append(out.Conditions, c) }
	path := filepath.Join(cfg.Dir, ImageFile)
	var st unix.Stat_t
	err := unix.Lstat(path, &st)
	on := w.files[fileID{st.Dev, st.Ino}]
	if err == nil && len(on) == 0 && len(w.silent) > 0 {
		add(condition(volume.Degraded, PoolUnmeasured, "loop devices do not answer, /dev/loop%d among them, so it is not known which one has its image", w.silent[0]))
		return
	}
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(on) == 0 {
		add(condition(volume.Degraded, PoolImageMissing, "it works, and its image %s was deleted or replaced: all of it is lost when it is unmounted; copy the data elsewhere first", path))
		return
	}
	if err != nil {
		add(condition(volume.Degraded, PoolImageMissing, "it works, and its image cannot be looked at: %v", err))
		return
	}
	out.ImageDirectIO = on[0].DirectIO
	if !out.ImageDirectIO {
		add(condition(volume.Degraded, DirectIOOff, "the loop device of its image does no direct I/O: everything is cached twice; move it to a filesystem with direct I/O"))
	}
	if missing := volume.Bytes(st.Size - st.Blocks*statBlock); missing > 0 {
		add(condition(volume.Degraded, ImagePunched, "%s of its image %s have lost their place on the host's disk; restart the driver's pod, which allocates them again, and find what punches holes", missing, path))
	}
}

// examineStore asks the pool's filesystem what it knows itself.
func (p *pool) examineStore(out *backend.PoolStats) {
	if s, ok := p.store.(interface{ checkProfile() error }); ok {
		if err := s.checkProfile(); errors.Is(err, volume.ErrPrecondition) {
			out.Conditions = append(out.Conditions, condition(volume.Degraded, ProfileUnsafe, "%v", err))
		}
	}
	if s, ok := p.store.(interface{ diskErrors() (string, error) }); ok {
		if text, err := s.diskErrors(); err == nil && text != "" {
			out.Conditions = append(out.Conditions, condition(volume.Degraded, DiskErrors, "%s; look into the kernel's log; when the disk is known to be good, set the counters to 0: btrfs device stats -z %s", text, p.dir.Name()))
		}
	}
}

// diskErrors says which I/O errors btrfs has counted, "" if none.
func (s *btrfsStore) diskErrors() (string, error) {
	files, err := filepath.Glob(s.sysfs("devinfo/*/error_stats"))
	if err != nil {
		return "", err
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			return "", fmt.Errorf("read the error counters of the pool: %w", err)
		}
		if found := nonZero(string(text)); found != "" {
			return "btrfs has counted errors of its disk: " + found, nil
		}
	}
	return "", nil
}
