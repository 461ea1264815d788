package lifecycle

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-csi/holdfast/pkg/orchestrator"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/pkg/workload"
	"github.com/holdfast-csi/holdfast/test/harness"
)

func TestSpace(t *testing.T) { harness.OnEachFilesystem(t, testSpace) }

func testSpace(t *testing.T, flag string) {
	s := newSite(t, volume.GiB, flag)
	s.run("capacity follows what is made and deleted", capacityFollows)
	s.run("every promise is kept to the last byte", promisesAreKept)
	s.run("a snapshot whose sharing cannot be afforded is refused", snapshotRefused)
	s.run("deleted space is there for the next create", deletedSpaceComesBack)
	s.run("a pool full of foreign data answers, deletes and recovers", fullPool)
}

func TestSpaceWhenAllIsShared(t *testing.T) { harness.OnEachFilesystem(t, testSpaceWhenAllIsShared) }

func testSpaceWhenAllIsShared(t *testing.T, flag string) {
	s := newSite(t, 640*volume.MiB, flag)
	s.run("every promise is kept when all is overwritten in small pieces", promisesAreKeptWhenShared)
}

// sized is a claim of another size.
func sized(c orchestrator.Claim, size volume.Bytes) orchestrator.Claim {
	c.Size = size.RoundUp(volume.MiB)
	return c
}

func capacityFollows(s *site) {
	const size, tolerance = 200 * volume.MiB, 8 * volume.MiB
	empty := s.capacity()
	takes := func(what string, least, most volume.Bytes) {
		if took := empty - s.capacity(); took < least-tolerance || took > most+tolerance {
			s.t.Errorf("%s takes %s of the room, want %s to %s", what, took, least, most)
		}
	}
	p := s.launch(sized(block("capacity"), size))
	takes("an empty volume", size, size)
	s.must(workload.Write(p.target, 1, size, true))
	// What is written needs no reserve any more.
	takes("a full volume", size*4/5, size)
	snap := p.snapshot("capacity")
	takes("a full volume with a snapshot", size+size*4/5, 2*size)
	s.must(s.driver.DeleteSnapshot(s.ctx, snap))
	p.retire()
	s.mustComeBack(empty - tolerance)
}

// mustComeBack waits until there is so much room again.
func (s *site) mustComeBack(room volume.Bytes) {
	s.t.Helper()
	// btrfs makes what was allocated to data free for metadata again when its cleaner
	// comes by, twice a minute.
	for end := time.Now().Add(90 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if got := s.capacity(); got >= room {
			return
		} else if time.Now().After(end) {
			s.t.Fatalf("there is room for %s only, it was %s", got, room)
		}
	}
}

// promisesAreKept makes volumes until the pool refuses, then uses each to the
// full.
func promisesAreKept(s *site) {
	kinds := []orchestrator.Claim{ext4("promise-ext4"), xfs("promise-xfs"), block("promise-block")}
	var promised volume.Bytes
	for i := 0; len(kinds) > 0; i++ {
		claim := kinds[i%len(kinds)]
		claim.Name = numbered(claim.Name, i)
		v, err := s.driver.Create(s.ctx, claim)
		if status.Code(err) == codes.ResourceExhausted {
			kinds = append(kinds[:i%len(kinds):i%len(kinds)], kinds[i%len(kinds)+1:]...)
			continue
		}
		s.must(err)
		promised += volume.Bytes(v.GetCapacityBytes())
		p := &pod{site: s, name: "pod-" + claim.Name, id: v.GetVolumeId(), claim: claim}
		s.pods = append(s.pods, p)
		p.start()
	}
	sizes := map[*pod]volume.Bytes{}
	for i, p := range s.pods {
		sizes[p] = p.fill(uint64(i))
	}
	for i, p := range s.pods {
		p.stop()
		p.start()
		s.must(workload.Verify(p.path("full"), uint64(i), sizes[p]))
	}
	s.t.Logf("%d volumes of %s together are full", len(s.pods), promised)
}

// fill writes until the volume is full, demands that it is the volume that is
// full and not the pool, and returns how much it took.
func (p *pod) fill(seed uint64) volume.Bytes {
	p.t.Helper()
	if p.claim.Block {
		p.must(workload.Write(p.target, seed, p.claim.Size, true))
		return p.claim.Size
	}
	path := p.path("full")
	if err := workload.Write(path, seed, 2*p.claim.Size, false); !errors.Is(err, unix.ENOSPC) {
		p.t.Fatalf("%s: the volume took twice its size: %v", p.claim.Name, err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	p.must(err)
	defer f.Close()
	p.must(f.Sync())
	p.must(unix.Syncfs(int(f.Fd())))
	var fs unix.Statfs_t
	p.must(unix.Fstatfs(int(f.Fd()), &fs))
	if left := volume.Bytes(fs.Bavail) * volume.Bytes(fs.Bsize); left > volume.MiB {
		p.t.Errorf("%s: no space, although its filesystem has %s", p.claim.Name, left)
	}
	st, err := f.Stat()
	p.must(err)
	return volume.Bytes(st.Size())
}

// promisesAreKeptWhenShared makes volumes with a snapshot each until the pool
// refuses, then overwrites each in random order: every block is a copy, and has an
// extent of its own.
func promisesAreKeptWhenShared(s *site) {
	const size = 48 * volume.MiB
	for i := 0; ; i++ {
		claim := sized(block(numbered("shared", i)), size)
		_, err := s.driver.Create(s.ctx, claim)
		if err == nil {
			p := s.launch(claim)
			s.must(workload.Write(p.target, uint64(i), size, true))
			_, err = s.driver.Snapshot(s.ctx, claim.Name, p.id)
		}
		if status.Code(err) == codes.ResourceExhausted {
			break
		}
		s.must(err)
	}
	for i, p := range s.pods {
		p.scatter(uint64(100+i), size)
	}
	for i, p := range s.pods {
		p.stop()
		p.start()
		s.must(workload.Verify(p.target, uint64(100+i), size))
	}
	s.t.Logf("%d volumes of %s, all shared with a snapshot, are overwritten; there is room for %s more", len(s.pods), size, s.capacity())
}

// scatter writes what workload.Write writes, block by block in random order.
func (p *pod) scatter(seed uint64, size volume.Bytes) {
	p.t.Helper()
	const blockSize, group = 4 << 10, 512
	source := filepath.Join(p.t.TempDir(), "source")
	p.must(workload.Write(source, seed, size, false))
	data, err := os.ReadFile(source)
	p.must(err)
	f, err := os.OpenFile(p.target, os.O_WRONLY, 0)
	p.must(err)
	defer f.Close()
	for n, i := range rand.Perm(len(data) / blockSize) {
		_, err := f.WriteAt(data[i*blockSize:][:blockSize], int64(i)*blockSize)
		p.must(err)
		if n%group == group-1 {
			p.must(f.Sync())
		}
	}
	p.must(f.Sync())
}

func snapshotRefused(s *site) {
	size := (s.capacity() * 6 / 10).RoundUp(volume.MiB)
	p := s.launch(sized(block("unaffordable"), size))
	s.must(workload.Write(p.target, 1, size, true))
	_, err := s.driver.Snapshot(s.ctx, "unaffordable", p.id)
	s.mustRefuse(err, codes.ResourceExhausted, "delete volumes or snapshots, or enlarge the pool")
	_, err = s.driver.Create(s.ctx, p.cloneOf("unaffordable-clone"))
	s.mustRefuse(err, codes.ResourceExhausted)
	// It owns what it has, and can overwrite all of it.
	s.must(workload.Write(p.target, 2, size, true))
	s.must(workload.Verify(p.target, 2, size))
	if left := s.snapshots(); len(left) > 0 {
		s.t.Errorf("a snapshot that was refused is listed: %v", left)
	}
}

func deletedSpaceComesBack(s *site) {
	size := (s.capacity() * 7 / 10).RoundUp(volume.MiB)
	for i := range 4 {
		p := s.launch(sized(block(numbered("again", i)), size))
		s.must(workload.Write(p.target, uint64(i), size, true))
		p.retire()
	}
}

// fullPool fills the pool behind the driver's back.
func fullPool(s *site) {
	s.survives(func() (empty func()) {
		path := filepath.Join(s.pool, "foreign")
		f, err := os.Create(path)
		s.must(err)
		defer f.Close()
		size := int64(0)
		for chunk := int64(64 << 20); chunk >= 4096; {
			if err := unix.Fallocate(int(f.Fd()), 0, size, chunk); errors.Is(err, unix.ENOSPC) {
				chunk /= 4
				continue
			} else {
				s.must(err)
			}
			size += chunk
		}
		return func() { s.must(os.Remove(path)) }
	})
}

// survives demands that the driver answers and deletes on a pool that fill has
// made full, and goes on as before once empty was called.
func (s *site) survives(fill func() (empty func())) {
	s.t.Helper()
	kept, gone := s.launch(xfs("kept")), s.launch(ext4("gone"))
	kept.write("data", 1)
	snap := gone.snapshot("gone")
	gone.stop()
	room := s.capacity()
	empty := fill()

	if got := s.capacity(); got != 0 {
		s.t.Errorf("a full pool has room for %s", got)
	}
	kept.mustSee(kept.claim.Size)
	if n := len(s.volumes()); n != 2 {
		s.t.Errorf("%d volumes are listed", n)
	}
	if n := len(s.snapshots()); n != 1 {
		s.t.Errorf("%d snapshots are listed", n)
	}
	_, err := s.driver.Create(s.ctx, ext4("refused"))
	s.mustRefuse(err, codes.ResourceExhausted)
	_, err = s.driver.Snapshot(s.ctx, "refused", kept.id)
	s.mustRefuse(err, codes.ResourceExhausted)
	_, err = s.driver.Controller.ControllerExpandVolume(s.ctx, &csi.ControllerExpandVolumeRequest{
		VolumeId: kept.id, CapacityRange: &csi.CapacityRange{RequiredBytes: int64(kept.claim.Size + 64*volume.MiB)},
	})
	s.mustRefuse(err, codes.OutOfRange)
	kept.verify("data", 1)
	s.must(s.driver.DeleteSnapshot(s.ctx, snap))
	s.must(s.driver.Delete(s.ctx, gone.id))
	gone.forget()
	if n := len(s.volumes()) + len(s.snapshots()); n != 1 {
		s.t.Errorf("%d objects are listed after the deletions", n)
	}
	// A restart needs space as well.
	s.restart("")
	kept.verify("data", 1)

	empty()
	// What was deleted can be used after the pool's next commit, 30 s at most.
	dir, err := os.Open(s.pool)
	s.must(err)
	s.must(errors.Join(unix.Syncfs(int(dir.Fd())), dir.Close()))
	s.mustComeBack(room)
	s.must(s.driver.Delete(s.ctx, s.create(ext4("works-again")).id))
	s.pods = s.pods[:1]
	kept.write("data", 2)
	kept.stop()
	kept.start()
	kept.verify("data", 2)
	s.mustHaveBallast()
}

// mustHaveBallast waits until the ballast is back.
func (s *site) mustHaveBallast() {
	s.t.Helper()
	for end := time.Now().Add(writeWait); ; time.Sleep(20 * time.Millisecond) {
		if st, err := os.Stat(filepath.Join(s.pool, "ballast")); err == nil && st.Size() > 0 {
			return
		} else if time.Now().After(end) {
			s.t.Fatalf("the ballast does not come back: %v", err)
		}
	}
}
