package local

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/backend"
	"github.com/holdfast-csi/holdfast/pkg/filesystem"
	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// examineVolume looks at one volume. It is ErrNotFound if there is none.
func (p *pool) examineVolume(id volume.ID, w *surroundings) (backend.VolumeStats, error) {
	p.mu.Lock()
	o, err := object{}, p.rotten[id]
	if found, ok := p.objects[id]; ok {
		o, err = *found, found.damage
	} else if err == nil {
		p.mu.Unlock()
		return backend.VolumeStats{}, fmt.Errorf("%w: %s in pool %s", volume.ErrNotFound, id, p.name)
	}
	p.mu.Unlock()
	out := backend.VolumeStats{ID: id, Size: o.Size}
	if err != nil {
		out.Conditions = []volume.Condition{condition(volume.Lost, ObjectDamaged, "%v", err)}
		return out, nil
	}
	p.examineImage(o, w, &out)
	out.Conditions = volume.Conditions(out.Conditions)
	return out, nil
}

// examineImage looks at the image of a volume, at the devices that have it and at
// the filesystem on them.
func (p *pool) examineImage(o object, w *surroundings, out *backend.VolumeStats) {
	add := func(c ...volume.Condition) { out.Conditions = append(out.Conditions, c...) }
	var st unix.Stat_t
	err := unix.Fstatat(int(p.dir.Fd()), o.dir+"/"+dataDir+"/"+imageFile, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		if !p.backend.isBusy(o.ID) { // else it is just being deleted
			add(condition(volume.Lost, ImageMissing, "its image is gone from %s/%s: something deleted it; restore a snapshot", p.dir.Name(), o.dir))
		}
		return
	}
	if err != nil {
		add(condition(volume.Inaccessible, ImageUnreadable, "its image cannot be looked at: %v; look into the kernel's log", err))
		return
	}
	if st.Size < int64(o.Size) {
		add(condition(volume.Lost, ImageTooShort, "its image has %d bytes, its record says %d: something cut it; restore a snapshot", st.Size, o.Size))
	}
	out.Used = volume.Bytes(st.Blocks) * statBlock
	out.InPlace = out.Used
	if o.copied {
		out.InPlace = o.inPlace
		if !o.last.at.IsZero() {
			out.Used, out.Extents = o.last.Mapped, o.last.Extents
		}
	}
	on := w.files[fileID{st.Dev, st.Ino}]
	tagged := w.tagged[tagOf(o.ID)]
	for _, l := range tagged {
		if l.BackingDev != st.Dev || l.BackingInode != st.Ino {
			add(condition(volume.Lost, ImageMissing, "/dev/loop%d has another file than its image: something deleted or replaced it; do not stop its pods before the data is copied", l.Index))
		}
	}
	out.Attached, out.DirectIO = len(on), len(on) > 0
	if len(on) > 1 {
		add(condition(volume.Inaccessible, AttachedTwice, "%d loop devices have its image, loop%d and loop%d among them; writing through both destroys it: detach the one that no pod uses", len(on), on[0].Index, on[1].Index))
	}
	if err := p.guard.checkNotFrozen(o.ID, volume.ErrNoSpace); err != nil {
		add(condition(volume.Inaccessible, GuardFroze, "its writers wait, because its pool is full; delete snapshots or volumes, or enlarge the pool, and they go on"))
	}
	small := false
	for _, l := range on {
		if !l.DirectIO {
			out.DirectIO = false
			if o.Format.SectorSize == 4096 { // others never have it
				add(condition(volume.Degraded, DirectIOOff, "/dev/loop%d does no direct I/O: everything is cached twice; stop its pods and start them again", l.Index))
			}
		}
		small = small || l.Size < o.Size
		add(p.backend.health.examineFilesystem(o, l, w.mounts[unix.Mkdev(l.Major, l.Minor)])...)
	}
	if since := p.backend.health.smallFor(o.ID, small, time.Now()); since > growPatience {
		add(condition(volume.Degraded, DeviceTooSmall, "it was grown to %s and its device still has less; start its pod again", o.Size))
	}
}

// growPatience is how long kubelet has, after a volume was grown, to tell the node.
const growPatience = 5 * time.Minute

// smallFor is how long the device of a volume has been smaller than the volume.
func (h *health) smallFor(id volume.ID, small bool, now time.Time) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !small {
		delete(h.small, id)
		return 0
	}
	if _, ok := h.small[id]; !ok {
		h.small[id] = now
	}
	return now.Sub(h.small[id])
}

// examineFilesystem looks at the filesystem on a device, through its mounts.
func (h *health) examineFilesystem(o object, l loop.Info, mounts []mount.Info) []volume.Condition {
	if o.Format.Mode != volume.ModeFilesystem || len(mounts) == 0 {
		return nil
	}
	const advice = "stop its pods; it is checked and repaired when they start again"
	switch mounts[0].Failed() {
	case "shutdown":
		return []volume.Condition{condition(volume.Inaccessible, FilesystemShutDown, "its %s has shut itself down after an error; %s", o.Format.FSType, advice)}
	case "emergency_ro":
		return []volume.Condition{condition(volume.Inaccessible, FilesystemReadOnly, "its %s has made itself read-only after an error; %s", o.Format.FSType, advice)}
	}
	root, err := openMount(l, mounts)
	if err == nil && root != nil {
		err = filesystem.Alive(root)
		root.Close()
	}
	if filesystem.IsDead(err) {
		return []volume.Condition{condition(volume.Inaccessible, FilesystemShutDown, "its %s does not answer any more after an error; %s", o.Format.FSType, advice)}
	}
	if o.Format.FSType != volume.Ext4 {
		return nil
	}
	n, err := filesystem.Ext4Errors(fmt.Sprintf("loop%d", l.Index))
	if err != nil || n == 0 {
		return nil // unmounted just now
	}
	if slices.Contains(mounts[0].SuperOptions, "ro") || h.refuses(l, mounts) {
		return []volume.Condition{condition(volume.Inaccessible, FilesystemReadOnly, "its ext4 has found %d errors and made itself read-only; %s", n, advice)}
	}
	return []volume.Condition{condition(volume.Degraded, FilesystemErrors, "its ext4 has found %d errors since it was last checked; %s", n, advice)}
}

// tryWait bounds how long a filesystem that is tried may take; one that is frozen
// answers when it is thawed.
const tryWait = 2 * time.Second

// refuses tries whether a suspected ext4 takes changes, for the kernels that do not
// show it. One that does not answer does not refuse, and is not tried again before
// it did.
func (h *health) refuses(l loop.Info, mounts []mount.Info) bool {
	h.mu.Lock()
	tried := h.trying[l.Index]
	h.trying[l.Index] = true
	h.mu.Unlock()
	if tried {
		return false
	}
	refused := make(chan bool, 1)
	go func() {
		defer func() {
			h.mu.Lock()
			defer h.mu.Unlock()
			delete(h.trying, l.Index)
		}()
		root, err := openMount(l, mounts)
		if err != nil || root == nil {
			refused <- false
			return
		}
		refused <- filesystem.Writable(root) != nil
		root.Close()
	}()
	select {
	case r := <-refused:
		return r
	case <-time.After(tryWait):
		return false
	}
}

// openMount opens the root of a filesystem through one of its mounts, one that can
// be written through if there is one; nil if none is in sight any more.
func openMount(l loop.Info, mounts []mount.Info) (*os.File, error) {
	var failed error
	for _, wantReadOnly := range []bool{false, true} {
		for _, m := range mounts {
			if m.Root != "/" || m.ReadOnly() != wantReadOnly {
				continue
			}
			f, err := os.Open(m.Path)
			if err != nil {
				failed = err
				continue
			}
			if onDevice(f, l) {
				return f, nil
			}
			f.Close()
		}
	}
	return nil, failed
}
