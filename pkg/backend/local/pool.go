package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// The directories of a pool. The hidden ones never hold a finished object.
const (
	volumesDir    = "volumes"
	snapshotsDir  = "snapshots"
	stagingDir    = ".staging"
	trashDir      = ".trash"
	quarantineDir = ".quarantine"
	lockFile      = "pool.lock"
)

var layout = []string{volumesDir, snapshotsDir, stagingDir, trashDir, quarantineDir}

// pool is an open pool.
type pool struct {
	id      volume.PoolID
	name    string
	backend *Backend
	store   store
	root    *os.Root // pins the pool's filesystem: paths are not looked up again
	dir     *os.File // the same directory
	lock    *os.File
	guard   *guard
	kick    chan struct{} // wakes run when the trash has something

	// trashMu makes one goroutine at a time remove data, so that the ticket for it
	// is known to all. It comes before mu.
	trashMu sync.Mutex

	// mu guards the index and the promises.
	mu       sync.Mutex
	objects  map[volume.ID]*object
	rotten   map[volume.ID]error // what has no readable record, and why
	trash    map[string]uint64   // directory in .trash -> ticket of store.waitFreed, 0 if none yet
	promised map[volume.ID]promise
	ungrown  trouble // what was told of growToDevice
}

// object is a volume or a snapshot in the index.
type object struct {
	record
	dir    string       // relative to the pool's root
	length volume.Bytes // of the image, or what it was about to get
	copied bool         // see store.copied
	// inPlace is what a copied volume certainly can overwrite without new space, in
	// bytes; last is where that comes from, and epoch counts what made it 0 again.
	inPlace volume.Bytes
	last    measured
	epoch   int
	// damage is why the object can only be deleted: its image is not what the
	// record says. nil if all is well.
	damage error
}

func objectDir(id volume.ID) string {
	if id.Kind() == volume.KindSnapshot {
		return snapshotsDir + "/" + string(id)
	}
	return volumesDir + "/" + string(id)
}

// openPool opens a configured pool. The id is known even on error if the pool
// was registered before.
func openPool(ctx context.Context, b *Backend, pc PoolConfig) (*pool, volume.PoolID, error) {
	reg, err := findRegistration(b.state, pc)
	known := err == nil
	if err != nil && !errors.Is(err, volume.ErrNotFound) {
		return nil, "", err
	}
	if !known && pc.Size > 0 || reg.Device {
		if err := os.MkdirAll(pc.Dir, 0o700); err != nil {
			return nil, reg.PoolID, fmt.Errorf("make the directory of the pool: %w", err)
		}
	}
	unlock, err := lockDir(pc.Dir)
	if err != nil {
		return nil, reg.PoolID, err
	}
	defer unlock()
	dir := pc.Dir
	switch {
	case reg.Device && pc.Size > 0:
		err = fmt.Errorf("%w: pool %s is a disk; --pool-size is for pool images: remove it", volume.ErrPrecondition, pc.Name)
	case reg.Device:
		err = b.mountDisk(ctx, dir, reg)
	case pc.Size > 0:
		dir, err = b.mountImage(ctx, pc, known)
	}
	if err != nil {
		return nil, reg.PoolID, err
	}
	p, err := b.openDir(dir, pc.Name)
	if err != nil {
		return nil, reg.PoolID, err
	}
	if err := p.claim(ctx, reg, known, pc); err != nil {
		return nil, reg.PoolID, errors.Join(err, p.close())
	}
	if fsType, _ := p.store.identity(); pc.Filesystem != "" && pc.Filesystem != fsType {
		b.notice(FilesystemKept, "pool %s (%s) is on %s, --pool-filesystem says %s; it keeps the filesystem it was made with", pc.Name, pc.Dir, fsType, pc.Filesystem)
	}
	return p, p.id, nil
}

// lockDir keeps other drivers, and driver pool init, from making or opening a
// pool in a directory until unlock is called; pool.lock, which the pool holds
// from then on, is inside what is being made.
func lockDir(dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("open the pool's directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: another process is opening the pool in %s, try again: %w", volume.ErrUnavailable, dir, err), f.Close())
	}
	return func() { f.Close() }, nil // which unlocks
}

// openDir opens a directory that may be a pool, and checks its filesystem.
func (b *Backend) openDir(dir, name string) (*pool, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open the pool's directory: %w", err)
	}
	p := &pool{
		name: name, backend: b, root: root, kick: make(chan struct{}, 1),
		objects: map[volume.ID]*object{}, rotten: map[volume.ID]error{}, trash: map[string]uint64{}, promised: map[volume.ID]promise{},
	}
	p.dir, err = root.Open(".")
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the pool's directory: %w", err), p.close())
	}
	p.guard = newGuard(p)
	p.store, err = openStore(p.dir)
	if err != nil {
		return nil, errors.Join(err, p.close())
	}
	return p, nil
}

// claim makes an open directory ours: it checks that it is the pool that the
// registry means, makes a new pool image's first content, takes the lock, and
// puts right what a crash left behind.
func (p *pool) claim(ctx context.Context, reg registration, known bool, pc PoolConfig) error {
	m, err := readMarker(p.root)
	switch {
	case errors.Is(err, fs.ErrNotExist) && known:
		return fmt.Errorf("%w: the registered pool %s (%s) is not in %s: its disk is not mounted or was replaced; nothing was created", volume.ErrUnavailable, pc.Name, reg.PoolID, pc.Dir)
	case errors.Is(err, fs.ErrNotExist) && pc.Size == 0:
		return fmt.Errorf("%w: %s is not a pool; if it should be one, run: driver pool init %s", volume.ErrPrecondition, pc.Dir, pc.Dir)
	case errors.Is(err, fs.ErrNotExist):
		if m, err = p.makeLayout(pc); err != nil {
			return err
		}
	case err != nil:
		return err
	}
	if !known {
		if err := p.backend.checkOurs(m, pc); err != nil {
			return err
		}
	}
	if known && m.PoolID != reg.PoolID {
		return fmt.Errorf("%w: %s holds pool %s, but %s is registered as pool %s; mount the right disk, or give the other pool a name of its own", volume.ErrUnavailable, pc.Dir, m.PoolID, pc.Name, reg.PoolID)
	}
	if _, uuid := p.store.identity(); m.FSUUID != uuid {
		return fmt.Errorf("%w: the marker in %s belongs to filesystem %s, this is %s: the pool was copied, or its disk is not mounted", volume.ErrUnavailable, pc.Dir, m.FSUUID, uuid)
	}
	p.id = m.PoolID
	if err := p.takeLock(); err != nil {
		return err
	}
	if err := p.backend.claimFilesystem(m.FSUUID, pc.Name); err != nil {
		return err
	}
	if err := p.growToDevice(); err != nil {
		p.tellUngrown(err)
	}
	if err := p.recover(ctx); err != nil {
		return err
	}
	if known && reg.Dir == pc.Dir && reg.Name == pc.Name {
		return nil
	}
	if err := p.backend.cfg.Fault.At("pool/register"); err != nil {
		return err
	}
	made, _ := p.backend.announced(m.PoolID)
	return p.backend.enroll(registration{
		PoolID: p.id, Name: pc.Name, Dir: pc.Dir, Image: pc.Size > 0, Device: reg.Device || made.Device, FSUUID: m.FSUUID,
	})
}

// makeLayout makes an empty directory a pool. The marker comes last: without it
// there is no pool, and the next try starts over.
func (p *pool) makeLayout(pc PoolConfig) (marker, error) {
	if err := p.checkEmpty(); err != nil {
		return marker{}, err
	}
	for _, d := range layout {
		if err := p.root.Mkdir(d, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return marker{}, fmt.Errorf("make the pool's directories: %w", err)
		}
	}
	if err := p.root.Chmod(".", 0o700); err != nil {
		return marker{}, fmt.Errorf("close the pool's directory to others: %w", err)
	}
	if err := p.store.commit(); err != nil {
		return marker{}, err
	}
	if err := p.backend.cfg.Fault.At("pool/layout"); err != nil {
		return marker{}, err
	}
	fsType, uuid := p.store.identity()
	m := marker{Format: markerFormat, PoolID: volume.NewPoolID(), Filesystem: fsType, FSUUID: uuid}
	if err := p.backend.announce(m.PoolID, pc); err != nil {
		return marker{}, err
	}
	return m, writeMarker(p.root, m)
}

// checkEmpty refuses a directory with anything but what a makeLayout that did
// not finish may have left.
func (p *pool) checkEmpty() error {
	entries, err := fs.ReadDir(p.root.FS(), ".")
	if err != nil {
		return fmt.Errorf("list %s: %w", p.dir.Name(), err)
	}
	ours := map[string]bool{markerFile + ".tmp": true, "lost+found": true}
	for _, d := range layout {
		ours[d] = true
	}
	for _, e := range entries {
		if !ours[e.Name()] {
			return fmt.Errorf("%w: %s is not empty (%s is in it) and has no marker; a pool starts in an empty directory", volume.ErrPrecondition, p.dir.Name(), e.Name())
		}
	}
	for _, d := range []string{volumesDir, snapshotsDir} {
		inside, err := fs.ReadDir(p.root.FS(), d)
		if err == nil && len(inside) > 0 {
			return fmt.Errorf("%w: %s has volumes but no marker %s; restore the marker, nothing was changed", volume.ErrDataLoss, p.dir.Name(), markerFile)
		}
	}
	return nil
}

// takeLock keeps a second driver from using the pool. The lock goes with the
// process.
func (p *pool) takeLock() error {
	f, err := p.root.OpenFile(lockFile, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("open %s: %w", lockFile, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return errors.Join(fmt.Errorf("%w: another driver uses the pool; this one takes over when it stops: lock %s: %w", volume.ErrUnavailable, lockFile, err), f.Close())
	}
	p.lock = f
	return nil
}

func (p *pool) close() error {
	errs := []error{p.guard.close()}
	for _, f := range []*os.File{p.lock, p.dir} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(append(errs, p.root.Close())...)
}

func (p *pool) lookup(id volume.ID) (object, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	o, ok := p.objects[id]
	if !ok {
		return object{}, false
	}
	return *o, true
}

func (p *pool) find(id volume.ID) (object, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if o, ok := p.objects[id]; ok {
		return *o, o.damage
	}
	if err := p.rotten[id]; err != nil {
		return object{}, fmt.Errorf("%s is damaged and not served: %w", id, err)
	}
	return object{}, fmt.Errorf("%w: %s in pool %s", volume.ErrNotFound, id, p.name)
}

// openObject opens the directory of an object.
func (p *pool) openObject(dir string) (*os.File, error) {
	return openAt(p.dir, dir, unix.O_RDONLY|unix.O_DIRECTORY)
}

// openImage opens an object's image and checks that it holds what the record
// promises.
func (p *pool) openImage(o object, flags uint64) (*os.File, error) {
	f, err := openAt(p.dir, o.dir+"/"+dataDir+"/"+imageFile, flags)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: the image of %s is gone: %w; restore a snapshot", volume.ErrDataLoss, o.ID, err)
	}
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && (!st.Mode().IsRegular() || st.Size() < int64(o.Size)) {
		err = cutShort(o.ID, volume.Bytes(st.Size()), o.Size)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// cutShort is the error for an image that is shorter than its record says.
func cutShort(id volume.ID, have, want volume.Bytes) error {
	return fmt.Errorf("%w: the image of %s has %d bytes, its record says %d; it was cut by something else; restore a snapshot", volume.ErrDataLoss, id, have, want)
}
