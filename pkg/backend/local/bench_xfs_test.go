package local

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// How long writers of an attached volume wait while it is copied, at once and in
// two steps (ADR 13):
//
//	HOLDFAST_ROOT_TESTS=1 go test ./pkg/backend/local -run '^$' -bench CopyStall -benchtime 1x
func BenchmarkCopyStall(b *testing.B) {
	for _, extents := range []int{16384, 65536, 131072} {
		for _, prepared := range []bool{false, true} {
			b.Run(fmt.Sprintf("%d-extents/prepared=%v", extents, prepared), func(b *testing.B) {
				for b.Loop() {
					benchCopyStall(b, extents, prepared)
				}
			})
		}
	}
}

func benchCopyStall(b *testing.B, extents int, prepared bool) {
	bench := newBenchOn(b, FilesystemXFS, 3*volume.GiB, nil, "default")
	p := bench.poolNamed("default")
	v, _ := bench.fragment("a", extents)
	dev, err := bench.Attach(b.Context(), v.ID)
	if err != nil {
		b.Fatal(err)
	}
	f, err := os.OpenFile(dev.Path, os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		b.Fatal(err)
	}
	block, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = unix.Munmap(block) }()
	var stop atomic.Bool
	stopped, waited := make(chan error), time.Duration(0)
	go func() {
		var err error
		for !stop.Load() && err == nil {
			start := time.Now()
			_, err = f.WriteAt(block, rand.Int64N(int64(extents))*4096)
			waited = max(waited, time.Since(start))
		}
		stopped <- err
	}()
	from, err := p.openObject(objectDir(v.ID))
	if err != nil {
		b.Fatal(err)
	}
	defer from.Close()
	if err := os.Mkdir(filepath.Join(p.dir.Name(), "copy"), 0o700); err != nil {
		b.Fatal(err)
	}
	to, err := p.openObject("copy")
	if err != nil {
		b.Fatal(err)
	}
	defer to.Close()
	start := time.Now()
	if prepared {
		if err := p.store.prepareCopy(b.Context(), from, to, p.confirm); err != nil {
			b.Fatal(err)
		}
	}
	instant := time.Now()
	if err := p.store.copyData(from, to, true); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(time.Since(instant).Microseconds())/1000, "ms-instant")
	b.ReportMetric(float64(time.Since(start).Microseconds())/1000, "ms-copy")
	stop.Store(true)
	if err := errors.Join(<-stopped, f.Close(), dev.Close(), bench.Detach(b.Context(), v.ID)); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(waited.Microseconds())/1000, "ms-longest-write")
}
