package bench

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/orchestrator"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/pkg/workload"
	"github.com/holdfast-csi/holdfast/test/figures"
	"github.com/holdfast-csi/holdfast/test/harness"
	"github.com/holdfast-csi/holdfast/test/plot"
)

const blockSize = 4096

// copyTimes are the times of the copies of one volume in one state.
type copyTimes struct {
	snapshot, restore, clone, deleteSnapshot, deleteVolume figures.Samples
	stall, cloneStall                                      figures.Samples // of the writer, at each snapshot and clone
}

// operations are the columns of a table and the lines of a plot.
func (c *copyTimes) operations() []struct {
	name  string
	times figures.Samples
} {
	return []struct {
		name  string
		times figures.Samples
	}{
		{"snapshot", c.snapshot}, {"restore", c.restore}, {"clone", c.clone},
		{"delete snapshot", c.deleteSnapshot}, {"delete volume", c.deleteVolume}, {"stall at a snapshot", c.stall},
	}
}

// measureCopies copies a volume in all ways and deletes the copies, for rounds or
// until it has taken limit. j writes to the volume, if it is not nil. On an error
// the times are those up to it.
func measureCopies(r *run, d *harness.Driver, id string, claim orchestrator.Claim, j *workload.Journal, rounds int, limit time.Duration) (*copyTimes, error) {
	c := &copyTimes{}
	start := time.Now()
	for i := 0; i < rounds && (i == 0 || time.Since(start) < limit); i++ {
		if err := c.round(r, d, id, claim, j, i); err != nil {
			return c, fmt.Errorf("round %d: %w", i, err)
		}
	}
	return c, nil
}

func (c *copyTimes) round(r *run, d *harness.Driver, id string, claim orchestrator.Claim, j *workload.Journal, i int) error {
	var snap, restored, cloned string
	name := func(what string) string { return fmt.Sprintf("%s-%s-%d", claim.Name, what, i) }
	steps := []struct {
		to, stall *figures.Samples // nil: not measured
		do        func() error
	}{
		{&c.snapshot, &c.stall, func() error {
			s, err := d.Snapshot(r.ctx, name("snapshot"), id)
			snap = s.GetSnapshotId()
			return err
		}},
		{&c.restore, nil, func() error {
			v, err := d.Create(r.ctx, orchestrator.Claim{Name: name("restored"), Size: claim.Size, FSType: claim.FSType, Snapshot: snap})
			restored = v.GetVolumeId()
			return err
		}},
		{&c.clone, &c.cloneStall, func() error {
			v, err := d.Create(r.ctx, orchestrator.Claim{Name: name("cloned"), Size: claim.Size, FSType: claim.FSType, Volume: id})
			cloned = v.GetVolumeId()
			return err
		}},
		{&c.deleteSnapshot, nil, func() error { return d.DeleteSnapshot(r.ctx, snap) }},
		{&c.deleteVolume, nil, func() error { return d.Delete(r.ctx, restored) }},
		{nil, nil, func() error { return d.Delete(r.ctx, cloned) }},
	}
	for _, s := range steps {
		if j != nil {
			j.Stall() // what was before does not count
		}
		start := time.Now()
		if err := s.do(); err != nil {
			return err
		}
		if s.to != nil {
			*s.to = append(*s.to, time.Since(start))
		}
		if s.stall == nil || j == nil {
			continue
		}
		// The stall ends with the first record after it.
		n, err := j.Acked()
		if err == nil {
			err = j.WaitAcked(n+20, time.Minute)
		}
		if err != nil {
			return err
		}
		*s.stall = append(*s.stall, j.Stall())
	}
	return nil
}

// journal starts a writer, which ends with the part.
func (r *run) journal(path string) (j *workload.Journal, stop func()) {
	r.t.Helper()
	j, err := workload.StartJournal(path)
	r.must(err)
	end := sync.OnceValue(func() error { _, err := j.Stop(); return err })
	r.t.Cleanup(func() {
		_ = end() // a part that ended in order has checked it
	})
	r.must(j.WaitAcked(100, time.Minute))
	return j, func() {
		r.t.Helper()
		r.must(end())
	}
}

// copiesAgainstExtents measures copies of a volume, and what a writer notices of
// them, while its image gets more and more extents.
func copiesAgainstExtents(r *run, pool string) {
	box, d := r.box(pool, orQuick(r, 16*volume.GiB, 8*volume.GiB))
	rounds := orQuick(r, 10, 2)
	fileSize := orQuick(r, 2*volume.GiB, 128*volume.MiB)
	claim := orchestrator.Claim{Name: "fragmented", Size: fileSize + volume.GiB, FSType: volume.XFS}
	v, err := d.Create(r.ctx, claim)
	r.must(err)
	id := v.GetVolumeId()
	target, err := d.Client.Start(r.ctx, id, "writer", claim, false)
	r.must(err)
	file := filepath.Join(target, "data")
	r.must(workload.Write(file, 1, fileSize, true))
	base, err := d.Snapshot(r.ctx, claim.Name+"-base", id)
	r.must(err)
	image := filepath.Join(poolDir(box), "volumes", id, "data", "disk.img")
	blocks := int(fileSize / blockSize)
	order := rand.New(rand.NewPCG(1, 2)).Perm(blocks)
	done := 0
	var counts []uint32
	var all []*copyTimes
	r.Line("")
	r.Line("An xfs volume of %s with a file of %s, mounted, while a writer appends 4 KiB records and syncs each. The image is", claim.Size, fileSize)
	r.Line("fragmented by overwriting random 4 KiB blocks of the file after a snapshot. Up to %d rounds in each state, within 20 s, of", rounds)
	r.Line("snapshot, restore, clone of the live volume, and deletion of all three: p50 / p95 / max. The freeze is included in snapshot and")
	r.Line("clone; the stall is the longest gap between two synced records around each. A full copy is `cp --sparse=always` and fsync, what a")
	r.Line("driver without copy-on-write would do at least.")
	r.Table("extents", "rounds", "snapshot", "restore", "clone", "delete snapshot", "delete volume", "stall at a snapshot", "stall at a clone", "full copy")
	targets := orQuick(r, []int{0, 1e3, 1e4, 1e5, 3e5}, []int{0, 1e3})
	var failure error
	for i, want := range targets {
		next := max(done, min(overwritesFor(want, blocks), blocks))
		r.must(scatter(file, order[done:next]))
		done = next
		count, err := extents(image)
		r.must(err)
		j, stop := r.journal(filepath.Join(target, "journal"))
		c, err := measureCopies(r, d, id, claim, j, rounds, 20*time.Second)
		if err != nil {
			failure = fmt.Errorf("with %d extents: %w", count, err)
			break
		}
		stop()
		r.must(os.Remove(filepath.Join(target, "journal")))
		full := "-"
		if i == 0 || i == len(targets)-1 {
			took, err := copyFile(image, filepath.Join(box.Dir, "full-copy"))
			r.must(err)
			full = ms(took)
		}
		r.Row(fmt.Sprint(count), fmt.Sprint(len(c.snapshot)), three(c.snapshot), three(c.restore), three(c.clone), three(c.deleteSnapshot), three(c.deleteVolume), three(c.stall), three(c.cloneStall), full)
		r.aimTime(fmt.Sprintf("snapshot, %d extents, %s", count, pool), 100*time.Millisecond, c.snapshot)
		r.aimTime(fmt.Sprintf("restore, %d extents, %s", count, pool), 60*time.Millisecond, c.restore)
		r.aimLongest(fmt.Sprintf("longest stall of a writer at a snapshot, %d extents, %s", count, pool), 150*time.Millisecond, c.stall.Max())
		counts, all = append(counts, count), append(all, c)
	}
	r.plotExtents(pool, counts, all)
	r.must(failure)
	r.must(d.Client.Stop(r.ctx, id, "writer", claim))
	r.must(d.DeleteSnapshot(r.ctx, base.GetSnapshotId()))
	r.must(d.Delete(r.ctx, id))
	d.Stop()
}

func (r *run) plotExtents(pool string, counts []uint32, all []*copyTimes) {
	r.t.Helper()
	if len(all) == 0 {
		return
	}
	chart := plot.Chart{
		Title: "Copies against extents, pool on " + pool,
		X:     plot.Axis{Label: "extents of the image", Log: true}, Y: plot.Axis{Label: "ms, p50 (range: to the maximum)", Log: true},
	}
	for i, op := range all[0].operations() {
		line := plot.Line{Name: op.name, Dots: true}
		for at, c := range all {
			line.Points = append(line.Points, c.point(i, float64(counts[at])))
		}
		chart.Lines = append(chart.Lines, line)
	}
	r.draw("copies-extents-"+pool, "Time of snapshot, restore, clone and deletions, and stall of a writer, against the extents of the image", chart)
}

// point is an operation at some place of the other axis.
func (c *copyTimes) point(operation int, x float64) plot.Point {
	inMS := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	s := c.operations()[operation].times
	return plot.Point{X: x, Y: inMS(s.Median()), Low: inMS(s.Median()), High: inMS(s.Max())}
}

// overwritesFor is how many of n blocks must be overwritten, each at most once,
// for about so many extents: each is one, and so is each run between them.
func overwritesFor(extents, n int) int {
	part := min(1, float64(extents)/float64(n))
	return int(float64(n) * (1 - math.Sqrt(1-part)))
}

// scatter overwrites these blocks of a file, many at a time.
func scatter(path string, blocks []int) error {
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_DIRECT, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	const writers = 16
	var group sync.WaitGroup
	failures := make([]error, writers)
	for w := range writers {
		group.Go(func() {
			buf := alignedBuffer(blockSize)
			for i := w; i < len(blocks) && failures[w] == nil; i += writers {
				_, failures[w] = f.WriteAt(buf, int64(blocks[i])*blockSize)
			}
		})
	}
	group.Wait()
	for _, err := range failures {
		if err != nil {
			return err
		}
	}
	return f.Sync()
}

// alignedBuffer is a buffer that direct I/O accepts.
func alignedBuffer(size int) []byte {
	raw := make([]byte, size+blockSize)
	shift := blockSize - int(uintptr(unsafe.Pointer(&raw[0]))%blockSize)
	return raw[shift : shift+size]
}

// extents counts the extents of a file (FS_IOC_FIEMAP with no room for any).
func extents(path string) (uint32, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	arg := struct { // struct fiemap, include/uapi/linux/fiemap.h
		start, length          uint64
		flags, mapped, n, _pad uint32
	}{length: ^uint64(0), flags: 1 /* FIEMAP_FLAG_SYNC */}
	const iocFiemap = 0xc020660b
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), iocFiemap, uintptr(unsafe.Pointer(&arg))); errno != 0 {
		return 0, errno
	}
	return arg.mapped, nil
}

// copyFile times a plain copy of a file, synced, and removes the copy.
func copyFile(from, to string) (time.Duration, error) {
	start := time.Now()
	if out, err := exec.Command("cp", "--sparse=always", "--reflink=never", from, to).CombinedOutput(); err != nil {
		return 0, fmt.Errorf("copy %s: %w: %s", from, err, out)
	}
	if out, err := exec.Command("sync", to).CombinedOutput(); err != nil {
		return 0, fmt.Errorf("sync %s: %w: %s", to, err, out)
	}
	return time.Since(start), os.Remove(to)
}
