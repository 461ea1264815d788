package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// A check looks at a copy of an image, in a process that the driver knows nothing
// of. While there is a copy nothing of the volume is overwritten in place. The name
// of its directory in .staging says how much that may cost, from before the first
// block is shared until the last one is free again, and every ledger of the pool
// charges it. Whoever made the directory holds a lock on it.

// checkPrefix starts the names of these directories; the process and the charge in
// bytes follow.
const checkPrefix = "check-"

// checkCopy is the copy of a check that is under way, or was killed.
type checkCopy struct {
	name   string // in the staging directory
	charge volume.Bytes
}

func isCheckCopy(name string) bool { return strings.HasPrefix(name, checkPrefix) }

func (p *pool) checkCopies() (out []checkCopy, err error) {
	entries, err := fs.ReadDir(p.root.FS(), stagingDir)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", stagingDir, err)
	}
	for _, e := range entries {
		if !isCheckCopy(e.Name()) {
			continue
		}
		_, charge, _ := strings.Cut(strings.TrimPrefix(e.Name(), checkPrefix), "-")
		n, err := strconv.ParseInt(charge, 10, 64)
		if err != nil || n < 0 || n > math.MaxInt64/1024 {
			n = 0 // no check made it
		}
		out = append(out, checkCopy{e.Name(), volume.Bytes(n)})
	}
	return out, nil
}

// privateCopy copies the image of an object into the staging directory, sharing all
// blocks. It is ErrNoSpace if the pool cannot do without as much as the volume may
// overwrite while there is a copy, beside all that it has promised.
//
// seen is the last change of the pool that its index knows of.
func (p *pool) privateCopy(ctx context.Context, o object, img *os.File, seen *int64) (*privateImage, error) {
	u, err := p.usageOf(o.dir)
	if err != nil {
		return nil, err
	}
	const spare = 64 * volume.MiB // for what the replay writes
	charge := u.Mapped + spare
	room, err := p.room()
	if err == nil && room < charge {
		err = fmt.Errorf("%w: a copy of %s needs %s, %s are left", volume.ErrNoSpace, o.ID, charge, room)
	}
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("%s/%s%d-%d", stagingDir, checkPrefix, os.Getpid(), charge)
	if err := p.root.Mkdir(name, 0o700); err != nil {
		return nil, fmt.Errorf("make %s: %w", name, err)
	}
	dir, err := p.openObject(name)
	if err != nil {
		return nil, errors.Join(err, p.removeAll(name))
	}
	c := &privateImage{pool: p, name: name, dir: dir}
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", name, err), dir.Close())
	}
	// From here on others reckon with the copy; what they promised before counts.
	err = p.catchUp(ctx, seen)
	if err == nil {
		err = p.confirm()
	}
	if err == nil {
		c.image, err = p.store.createImage(dir)
	}
	if err == nil {
		err = unix.IoctlFileClone(int(c.image.Fd()), int(img.Fd()))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("copy the image of %s: %w", o.ID, err), c.discard(ctx))
	}
	return c, nil
}

// privateImage is a copy of an image that only this process uses. Whoever made it
// discards it.
type privateImage struct {
	pool  *pool
	name  string   // of its directory
	dir   *os.File // which is locked
	image *os.File // open for writing
}

func (c *privateImage) discard(ctx context.Context) error {
	if c.image != nil {
		c.image.Close() // nobody will read it again
	}
	return errors.Join(c.pool.discardCopy(ctx, c.name, c.dir), c.dir.Close())
}

// lastChange is when a record or an object of the pool last came, went or changed,
// in ns.
func (p *pool) lastChange() (latest int64, err error) {
	p.mu.Lock()
	dirs := []string{volumesDir, snapshotsDir}
	for _, o := range p.objects {
		dirs = append(dirs, o.dir)
	}
	p.mu.Unlock()
	for _, d := range dirs {
		var st unix.Stat_t
		err := unix.Fstatat(int(p.dir.Fd()), d, &st, unix.AT_SYMLINK_NOFOLLOW)
		if errors.Is(err, unix.ENOENT) {
			continue // which changed the directory it was in
		}
		if err != nil {
			return 0, fmt.Errorf("stat %s: %w", d, err)
		}
		latest = max(latest, st.Mtim.Nano())
	}
	return latest, nil
}

// catchUp reads the pool again if another process changed it.
func (p *pool) catchUp(ctx context.Context, seen *int64) error {
	now, err := p.lastChange()
	if err != nil || now == *seen {
		return err
	}
	*seen = now
	p.mu.Lock()
	p.objects = map[volume.ID]*object{}
	p.mu.Unlock()
	for dir, kind := range map[string]volume.Kind{volumesDir: volume.KindVolume, snapshotsDir: volume.KindSnapshot} {
		if err := p.inspectObjects(dir, kind, &PoolStatus{}); err != nil {
			return err
		}
	}
	return p.measureAll(ctx)
}

// discardCopy removes a copy and returns when nothing is shared with it any more.
// The directory, which its charge is in, goes last.
func (p *pool) discardCopy(ctx context.Context, name string, dir *os.File) error {
	ticket, err := p.store.removeData(dir)
	if err != nil {
		return fmt.Errorf("remove the data of %s: %w", name, err)
	}
	if ticket != 0 {
		err = p.store.waitFreed(ctx, []uint64{ticket})
	}
	if err != nil {
		return err
	}
	return p.removeAll(name)
}

// discardOldCopies removes the copies of checks that were killed.
func (p *pool) discardOldCopies(ctx context.Context) error {
	copies, err := p.checkCopies()
	if err != nil {
		return err
	}
	for _, c := range copies {
		if err := p.discardOldCopy(ctx, stagingDir+"/"+c.name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func (p *pool) discardOldCopy(ctx context.Context, name string) error {
	dir, err := p.openObject(name)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil // it is in use
	}
	var st unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), dataDir, &st, unix.AT_SYMLINK_NOFOLLOW); errors.Is(err, unix.ENOENT) {
		const justMade = time.Minute // and about to be locked
		if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
			return fmt.Errorf("stat %s: %w", name, err)
		}
		if time.Since(time.Unix(st.Mtim.Unix())) < justMade {
			return nil
		}
	}
	return p.discardCopy(ctx, name, dir)
}
