package xfs

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/test/scratch"
)

// The figures of ADR 13:
//
//	HOLDFAST_ROOT_TESTS=1 go test ./pkg/xfs -run '^$' -bench . -benchtime 1x -timeout 30m
//
// Files are written as a loop device with direct I/O does, 16 requests at a time.

const (
	benchBlock = 4096
	benchFile  = 512 << 20
	benchDepth = 16
)

// benchPool is a filesystem with a file "a" of benchFile bytes, all written.
type benchPool struct {
	*testing.B
	root *os.File
	a    *os.File
}

func newBenchPool(b *testing.B, cowExtSize uint32) *benchPool {
	b.Helper()
	root, err := os.Open(scratch.XFS(b, 3*volume.GiB, "-m", "reflink=1,rmapbt=0", "-s", "size=4096"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { root.Close() })
	p := &benchPool{B: b, root: root}
	p.a = p.open("a", unix.O_DIRECT)
	p.must(SetCowExtSize(p.a, cowExtSize))
	p.must(unix.Fallocate(int(p.a.Fd()), 0, 0, benchFile))
	p.write(0, 1, 1<<20)
	p.sync()
	return p
}

func (p *benchPool) must(err error) {
	p.Helper()
	if err != nil {
		p.Fatal(err)
	}
}

func (p *benchPool) open(name string, flags int) *os.File {
	p.Helper()
	f, err := os.OpenFile(filepath.Join(p.root.Name(), name), os.O_RDWR|os.O_CREATE|flags, 0o600)
	p.must(err)
	p.Cleanup(func() { f.Close() })
	return f
}

func (p *benchPool) sync() { p.must(unix.Syncfs(int(p.root.Fd()))) }

func (p *benchPool) free() int64 {
	var st unix.Statfs_t
	p.must(unix.Fstatfs(int(p.root.Fd()), &st))
	return int64(st.Bavail) * st.Bsize
}

// write overwrites, in random order, of every step pieces of the file the one
// that comes at first, and counts those for which there was no space.
func (p *benchPool) write(first, step, piece int) (took time.Duration, refused int64) {
	p.Helper()
	var order []int
	for i := first; i < benchFile/piece; i += step {
		order = append(order, i)
	}
	rand.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	return p.writeAt(order, piece)
}

func (p *benchPool) writeAt(order []int, piece int) (took time.Duration, refused int64) {
	p.Helper()
	buf, err := unix.Mmap(-1, 0, piece, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	p.must(err)
	for i := range buf {
		buf[i] = byte(rand.Int())
	}
	var next, full atomic.Int64
	var group sync.WaitGroup
	start := time.Now()
	for range benchDepth {
		group.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(order) {
					return
				}
				_, err := p.a.WriteAt(buf, int64(order[i])*int64(piece))
				if errors.Is(err, unix.ENOSPC) {
					full.Add(1)
				} else if err != nil {
					p.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	return time.Since(start), full.Load()
}

// clone clones a, and returns how long that took.
func (p *benchPool) clone(name string) time.Duration {
	p.Helper()
	p.sync()
	dst := p.open(name, 0)
	start := time.Now()
	p.must(Clone(p.a, dst))
	took := time.Since(start)
	p.must(dst.Close()) // what is open is not freed
	return took
}

func (p *benchPool) extents() float64 {
	n, err := Extents(p.a)
	p.must(err)
	return float64(n)
}

var benchCowExtSizes = []uint32{4 << 10, 16 << 10, 64 << 10, 128 << 10, 1 << 20}

// What a unit of copy on write costs and gains: a share of the blocks of a
// snapshotted file is overwritten at random, and the file is snapshotted again.
func BenchmarkCowExtSize(b *testing.B) {
	for _, size := range benchCowExtSizes {
		for _, percent := range []int{10, 100} {
			b.Run(fmt.Sprintf("%s/%d%%", volume.Bytes(size), percent), func(b *testing.B) {
				for b.Loop() {
					p := newBenchPool(b, size)
					p.clone("s1")
					before := p.free()
					order := rand.Perm(benchFile / benchBlock)
					order = order[:len(order)*percent/100]
					took, _ := p.writeAt(order, benchBlock)
					written := int64(len(order)) * benchBlock
					b.ReportMetric(float64(len(order))/took.Seconds(), "writes/s")
					b.ReportMetric(p.extents(), "extents")
					b.ReportMetric(float64(before-p.free()-written)*100/float64(written), "%ahead")
					b.ReportMetric(float64(p.clone("s2").Microseconds())/1000, "ms-clone")
				}
			})
		}
	}
}

// The two copies of a snapshot: the first, and the second onto it.
func BenchmarkClone(b *testing.B) {
	for _, every := range []int{256, 32, 8, 4, 2} {
		extents := benchFile / benchBlock / every * 2
		b.Run(fmt.Sprintf("%d-extents", extents), func(b *testing.B) {
			for b.Loop() {
				p := newBenchPool(b, benchBlock)
				p.clone("s1")
				p.write(0, every, benchBlock)
				b.ReportMetric(p.extents(), "extents")
				b.ReportMetric(float64(p.clone("s2").Microseconds())/1000, "ms-first")
				b.ReportMetric(float64(p.clone("s2").Microseconds())/1000, "ms-second")
				start := time.Now()
				p.must(WalkExtents(p.a, func(Extent) error { return nil }))
				b.ReportMetric(float64(time.Since(start).Microseconds())/1000, "ms-walk")
				p.must(os.Remove(filepath.Join(p.root.Name(), "s2")))
				start = time.Now()
				p.must(FinishRemovals(p.root))
				b.ReportMetric(float64(time.Since(start).Microseconds())/1000, "ms-remove")
			}
		})
	}
}

// What metadata takes when every block is an extent of its own, with this many
// snapshots, each taken half way between two rounds of overwriting.
func BenchmarkMetadata(b *testing.B) {
	for b.Loop() {
		p := newBenchPool(b, benchBlock)
		for round := 1; round <= 3; round++ {
			p.clone(fmt.Sprintf("s%d", round))
			p.sync()
			before := p.free()
			p.write(0, 2, benchBlock)
			p.write(1, 2, benchBlock)
			p.must(ReleasePreallocated(p.root))
			p.sync()
			b.ReportMetric(float64(before-p.free()-benchFile)*100/benchFile, fmt.Sprintf("%%round-%d", round))
			before = p.free()
			p.clone("full")
			p.sync()
			b.ReportMetric(float64(before-p.free())*100/benchFile, fmt.Sprintf("%%clone-%d", round))
			p.must(os.Remove(filepath.Join(p.root.Name(), "full")))
			p.must(FinishRemovals(p.root))
		}
	}
}

// A pool that has just the space that it has promised: a file is cloned, all but
// one block of each 128 KiB are overwritten, everything else is filled, and then
// the rest is overwritten too.
func BenchmarkFullPool(b *testing.B) {
	for _, size := range benchCowExtSizes {
		b.Run(volume.Bytes(size).String(), func(b *testing.B) {
			for b.Loop() {
				p := newBenchPool(b, size)
				p.clone("s1")
				var most, rest []int
				for _, i := range rand.Perm(benchFile / benchBlock) {
					if i%32 == 0 {
						rest = append(rest, i)
					} else {
						most = append(most, i)
					}
				}
				p.writeAt(most, benchBlock)
				p.must(ReleasePreallocated(p.root))
				p.sync()
				charge := int64(len(rest)) * benchBlock
				spare := p.free() - charge*20/19
				p.must(unix.Fallocate(int(p.open("ballast", 0).Fd()), 0, 0, spare))
				free := p.free()
				_, refused := p.writeAt(rest, benchBlock)
				b.ReportMetric(float64(charge>>20), "MiB-promised")
				b.ReportMetric(float64(free>>20), "MiB-free")
				b.ReportMetric(float64(refused)*100/float64(len(rest)), "%refused")
			}
		})
	}
}
