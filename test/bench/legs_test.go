package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/btrfs"
	"github.com/holdfast-csi/holdfast/pkg/orchestrator"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/test/harness"
)

// leg is one of the places that are compared: data on a pool, which can be
// snapshotted where it is.
type leg interface {
	// region is where the loads go: at random to one, in sequence to the other.
	region(random bool) region
	snapshot(ctx context.Context, name string) error
	dropSnapshot(ctx context.Context, name string) error
	// remove deletes a leg that has no snapshots.
	remove(ctx context.Context) error
}

// fill writes both regions of a leg, so that no load is the first to write. fio
// would make the files anew, without their flags.
func fill(l leg) error {
	for _, to := range []region{l.region(true), l.region(false)} {
		if err := to.fill(); err != nil {
			return fmt.Errorf("fill %s: %w", to.path, err)
		}
	}
	return nil
}

func (r region) fill() error {
	f, err := os.OpenFile(r.path, os.O_WRONLY|os.O_CREATE|unix.O_DIRECT, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := alignedBuffer(1 << 20)
	source := rand.NewChaCha8([32]byte{1})
	for at := volume.Bytes(0); at < r.size; at += volume.Bytes(len(buf)) {
		if _, err := source.Read(buf); err != nil {
			return err
		}
		if _, err := f.WriteAt(buf, int64(r.offset+at)); err != nil {
			return err
		}
	}
	return f.Sync()
}

// volumeLeg is a volume that a pod uses: files in its filesystem, or the device.
type volumeLeg struct {
	driver    *harness.Driver
	claim     orchestrator.Claim
	id        string
	target    string
	size      volume.Bytes // of a region
	snapshots map[string]string
}

func newVolumeLeg(ctx context.Context, d *harness.Driver, claim orchestrator.Claim, size volume.Bytes) (*volumeLeg, error) {
	v, err := d.Create(ctx, claim)
	if err != nil {
		return nil, err
	}
	l := &volumeLeg{driver: d, claim: claim, id: v.GetVolumeId(), size: size, snapshots: map[string]string{}}
	l.target, err = d.Client.Start(ctx, l.id, "loaded", claim, false)
	return l, err
}

func (l *volumeLeg) region(random bool) region {
	switch {
	case !l.claim.Block && random:
		return region{filepath.Join(l.target, "random"), 0, l.size}
	case !l.claim.Block:
		return region{filepath.Join(l.target, "sequential"), 0, l.size}
	case random:
		return region{l.target, 0, l.size}
	default:
		return region{l.target, l.size, l.size}
	}
}

func (l *volumeLeg) snapshot(ctx context.Context, name string) error {
	s, err := l.driver.Snapshot(ctx, l.claim.Name+"-"+name, l.id)
	l.snapshots[name] = s.GetSnapshotId()
	return err
}

func (l *volumeLeg) dropSnapshot(ctx context.Context, name string) error {
	return l.driver.DeleteSnapshot(ctx, l.snapshots[name])
}

func (l *volumeLeg) remove(ctx context.Context) error {
	if err := l.driver.Client.Stop(ctx, l.id, "loaded", l.claim); err != nil {
		return err
	}
	return l.driver.Delete(ctx, l.id)
}

// plainLeg is files on the pool's own filesystem, as a program would have them
// there that goes without volumes: on btrfs NOCOW files in a subvolume, on xfs
// plain files.
type plainLeg struct {
	dir  string // has data/ and, beside it, the snapshots of data/
	pool string
	size volume.Bytes
}

func newPlainLeg(poolDir, pool string, size volume.Bytes) (*plainLeg, error) {
	l := &plainLeg{dir: filepath.Join(poolDir, "plain"), pool: pool, size: size}
	if err := os.Mkdir(l.dir, 0o700); err != nil {
		return nil, err
	}
	if pool != "btrfs" {
		return l, os.Mkdir(filepath.Join(l.dir, "data"), 0o700)
	}
	dir, err := os.Open(l.dir)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	if err := btrfs.CreateSubvolume(dir, "data"); err != nil {
		return nil, err
	}
	for _, random := range []bool{true, false} {
		f, err := os.Create(l.region(random).path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		if err := btrfs.SetNoCow(f); err != nil {
			return nil, err
		}
	}
	return l, nil
}

func (l *plainLeg) region(random bool) region {
	name := map[bool]string{true: "random", false: "sequential"}[random]
	return region{filepath.Join(l.dir, "data", name), 0, l.size}
}

func (l *plainLeg) snapshot(_ context.Context, name string) error {
	dir, err := os.Open(l.dir)
	if err != nil {
		return err
	}
	defer dir.Close()
	if l.pool == "btrfs" {
		data, err := os.Open(filepath.Join(l.dir, "data"))
		if err != nil {
			return err
		}
		defer data.Close()
		return btrfs.Snapshot(data, dir, name, true)
	}
	if err := os.Mkdir(filepath.Join(l.dir, name), 0o700); err != nil {
		return err
	}
	for _, file := range []string{"random", "sequential"} {
		if err := reflink(filepath.Join(l.dir, "data", file), filepath.Join(l.dir, name, file)); err != nil {
			return err
		}
	}
	return unix.Syncfs(int(dir.Fd()))
}

func reflink(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.Create(to)
	if err != nil {
		return err
	}
	defer dst.Close()
	if err := unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())); err != nil {
		return fmt.Errorf("clone %s: %w", from, err)
	}
	return nil
}

func (l *plainLeg) dropSnapshot(_ context.Context, name string) error {
	if l.pool != "btrfs" {
		return os.RemoveAll(filepath.Join(l.dir, name))
	}
	dir, err := os.Open(l.dir)
	if err != nil {
		return err
	}
	defer dir.Close()
	return btrfs.DestroySubvolume(dir, name)
}

func (l *plainLeg) remove(ctx context.Context) error {
	if err := l.dropSnapshot(ctx, "data"); err != nil {
		return err
	}
	return os.Remove(l.dir)
}

// settle waits until a pool has done what deletions left it to do, so that no
// load pays for what was before it.
func settle(poolDir string) error {
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		entries, err := os.ReadDir(filepath.Join(poolDir, ".trash"))
		if err != nil {
			return err
		}
		if len(entries) == 0 {
			break
		}
	}
	f, err := os.Open(poolDir)
	if err != nil {
		return err
	}
	defer f.Close()
	if is, err := btrfs.IsBtrfs(f); err != nil || !is {
		return unix.Syncfs(int(f.Fd()))
	}
	// What the cleaner drops now is freed by the next commit.
	if err := btrfs.WakeCleaner(f); err != nil {
		return err
	}
	time.Sleep(200 * time.Millisecond)
	return btrfs.Commit(f)
}

// poolDir is where a box's pool is mounted.
func poolDir(box *harness.Box) string { return filepath.Join(box.Pools(), "pool") }
