package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// checkRecords compares every record with its image.
func (p *pool) checkRecords(ctx context.Context, c *PoolCheck) error {
	for _, kind := range []volume.Kind{volume.KindVolume, volume.KindSnapshot} {
		dir := volumesDir
		if kind == volume.KindSnapshot {
			dir = snapshotsDir
		}
		entries, err := fs.ReadDir(p.root.FS(), dir)
		if err != nil {
			return fmt.Errorf("list %s: %w", dir, err)
		}
		for _, e := range entries {
			if err := ctx.Err(); err != nil {
				return fmt.Errorf("compare records: %w", context.Cause(ctx))
			}
			id, err := volume.ParseID(kind, e.Name())
			if err != nil || id.Pool() != p.id {
				c.problem(dir+"/"+e.Name(), "this is no volume or snapshot of this pool", "look at it and remove it by hand; a start of the driver moves it to "+quarantineDir)
				continue
			}
			p.rotten[id] = nil // it is there, whatever is wrong with it
			if err := p.checkRecord(id, c); err != nil {
				return err
			}
			if kind == volume.KindVolume {
				c.Volumes++
			} else {
				c.Snapshots++
			}
		}
	}
	return nil
}

const keepIt = "do not remove it: restore a snapshot of it, or have a look at the files"

func (p *pool) checkRecord(id volume.ID, c *PoolCheck) error {
	dir := objectDir(id)
	name := dir + "/" + recordFile(id.Kind())
	current, _, err := readRecordFile(p.root, name, id)
	_, _, perr := readRecordFile(p.root, name+previousSuffix, id)
	none, noFallback := errors.Is(err, fs.ErrNotExist), errors.Is(perr, fs.ErrNotExist)
	switch {
	case none && noFallback:
		if _, serr := p.root.Lstat(dir); errors.Is(serr, fs.ErrNotExist) {
			return nil // deleted just now
		}
		c.problem(string(id), "it has data and no record", "look at it and remove it by hand; a start of the driver moves it to "+quarantineDir)
		return nil
	case err != nil && perr != nil:
		c.problem(string(id), fmt.Sprintf("its record cannot be trusted, nor the one before it: %v", err), keepIt)
		return nil
	case err != nil && !none:
		c.problem(string(id), fmt.Sprintf("its record cannot be trusted, and the one before it is used: %v", err), "nothing is lost; growing the volume writes the record anew")
	case perr != nil && !noFallback:
		c.note(string(id), fmt.Sprintf("its previous record, the fallback, cannot be trusted: %v", perr), "nothing; growing the volume replaces it")
	}
	o, err := p.loadObject(id)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil // deleted just now
	case err == nil && o.damage != nil:
		err = o.damage
	}
	if err != nil {
		c.problem(string(id), err.Error(), keepIt)
		return nil
	}
	p.objects[id] = &o
	if err := p.checkData(o); errors.Is(err, volume.ErrDataLoss) {
		c.problem(string(id), err.Error(), "put the original back, or restore a snapshot")
		return nil
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	st, err := p.root.Lstat(dir + "/" + dataDir + "/" + imageFile)
	if err == nil && current.ID != "" && volume.Bytes(st.Size()) > current.Size {
		c.note(string(id), fmt.Sprintf("its image has %s, its record says %s: a growth that did not finish", volume.Bytes(st.Size()), current.Size), "nothing: the next try to grow it finishes that")
	}
	return nil
}

// patience is how long what is under construction, or on its way out, may take
// before it is worth a word.
const patience = 10 * time.Minute

// checkLeftovers looks for what no record explains. served says that a driver uses
// the pool.
func (p *pool) checkLeftovers(served bool, c *PoolCheck) error {
	for dir, tell := range map[string]func(path string, old bool){
		quarantineDir: func(path string, _ bool) {
			c.problem(path, "it had no record when a driver started", "look at it; if nobody needs it, remove it by hand (on btrfs data/ is a subvolume: btrfs subvolume delete)")
		},
		stagingDir: func(path string, old bool) {
			if !served {
				c.note(path, "it was under construction when a driver stopped", "nothing: the next start of the driver removes it")
			} else if old {
				c.note(path, "it has been under construction for more than "+patience.String(), "nothing, unless it stays: a restart of the driver removes it")
			}
		},
		trashDir: func(path string, old bool) {
			if !served {
				c.note(path, "it was deleted, and its space is not free yet", "nothing: a driver that runs frees it")
			} else if old {
				c.problem(path, "it was deleted more than "+patience.String()+" ago, and its space is not free yet", "look into the driver's log for CleanupFailed")
			}
		},
	} {
		entries, err := fs.ReadDir(p.root.FS(), dir)
		if err != nil {
			return fmt.Errorf("list %s: %w", dir, err)
		}
		for _, e := range entries {
			st, err := p.root.Lstat(dir + "/" + e.Name())
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return fmt.Errorf("look at %s/%s: %w", dir, e.Name(), err)
			}
			changed := time.Unix(st.Sys().(*syscall.Stat_t).Ctim.Unix())
			tell(dir+"/"+e.Name(), time.Since(changed) > patience)
		}
	}
	return nil
}

// checkLoops looks at the loop devices that have images of this pool.
func (p *pool) checkLoops(c *PoolCheck) error {
	all, err := loop.List()
	if err != nil {
		return err
	}
	tags := map[string]object{}
	for id := range p.rotten {
		tags[tagOf(id)] = object{record: record{ID: id}}
	}
	for _, o := range p.objects {
		tags[tagOf(o.ID)] = *o
	}
	devices := map[volume.ID][]string{}
	for _, l := range all {
		path := fmt.Sprintf("/dev/loop%d", l.Index)
		o, ok := tags[l.Tag]
		if ok {
			devices[o.ID] = append(devices[o.ID], path)
			if !l.DirectIO && o.Format.SectorSize == 4096 {
				c.problem(string(o.ID), path+" does no direct I/O: everything is cached twice", "stop its pods and start them again")
			}
			continue
		}
		if strings.HasPrefix(l.Tag, volumeTag) && strings.HasPrefix(l.BackingPath, filepath.Clean(p.dir.Name())+"/") && !isElsewhere(l) {
			c.problem(path, fmt.Sprintf("it has %s attached, which no record knows", l.BackingPath), fmt.Sprintf("see what uses it (lsblk, fuser); if nothing does: losetup -d %s", path))
		}
	}
	for id, paths := range devices {
		if len(paths) > 1 {
			c.problem(string(id), "it is attached several times, as "+strings.Join(paths, " and "), "writing through both destroys it: stop its pods, and detach all but one (losetup -d)")
		}
	}
	return nil
}

// isElsewhere reports whether a loop device belongs to another mount namespace,
// such as a container with a driver of its own, which has the same paths: here
// another file is there, or none. One that was deleted has a path that says so.
func isElsewhere(l loop.Info) bool {
	var st unix.Stat_t
	err := unix.Stat(l.BackingPath, &st)
	if err == nil {
		return !l.Dead && (st.Dev != l.BackingDev || st.Ino != l.BackingInode)
	}
	return errors.Is(err, unix.ENOENT) && !strings.HasSuffix(l.BackingPath, " (deleted)")
}

// checkIntents looks for filesystems of this pool that were left frozen.
func (p *pool) checkIntents(c *PoolCheck) error {
	ids, err := intents{p.backend.state}.list()
	if err != nil {
		return err
	}
	for _, id := range ids {
		if id.Pool() != p.id {
			continue
		}
		f, err := intents{p.backend.state}.open(id)
		if err != nil {
			return err
		}
		if f == nil {
			continue
		}
		free := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) == nil
		f.Close()
		if free {
			c.problem(string(id), "a driver that died was about to freeze its filesystem, or had done so", "start the driver, or the watchdog, which thaw it")
		}
	}
	return nil
}

// checkGround looks below the pool: at its image, or at its disk.
func (b *Backend) checkGround(r registration, c *PoolCheck) error {
	if r.Device {
		if _, err := findDisk(r.FSUUID); err != nil {
			c.problem("", err.Error(), "connect the disk, or disconnect its copy")
		}
		return nil
	}
	if !r.Image {
		return nil
	}
	path := filepath.Join(r.Dir, ImageFile)
	img, err := os.Open(path)
	if err != nil {
		c.problem(path, fmt.Sprintf("the pool image cannot be opened: %v", err), "mount the disk that it is on; if it was deleted, its volumes are lost: restore a backup of it")
		return nil
	}
	defer img.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(img.Fd()), &st); err != nil {
		return fmt.Errorf("stat the pool image: %w", err)
	}
	if missing := volume.Bytes(st.Size - st.Blocks*statBlock); missing > 0 {
		c.problem(path, fmt.Sprintf("%s of the pool image have no place on the host's disk", missing), "restart the driver, which allocates them again; find what punches holes: an fstrim, a copy that made it sparse")
	}
	on, err := b.loopsOn(img)
	if err != nil {
		return err
	}
	if len(on) > 1 {
		c.problem(path, fmt.Sprintf("the pool image is attached %d times, as /dev/loop%d and /dev/loop%d", len(on), on[0].Index, on[1].Index), "mounting both would destroy the pool: detach the one that is not mounted (losetup -d)")
	}
	for _, l := range on {
		if !l.DirectIO {
			c.note(path, fmt.Sprintf("/dev/loop%d does no direct I/O: everything is cached twice", l.Index), "move the pool to a filesystem with direct I/O")
		}
	}
	return nil
}
