package local

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

const (
	blockSize   = 4096
	imageBlocks = int(256 * volume.MiB / blockSize)
)

// blocks writes numbered blocks to a device, past the page cache, and knows what
// each must have in it.
type blocks struct {
	t    *testing.T
	dev  *os.File
	mu   sync.Mutex
	gens []uint64
}

func newBlocks(t *testing.T, path string) *blocks {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	return &blocks{t: t, dev: f, gens: make([]uint64, imageBlocks)}
}

// write gives n blocks from b on their next content in one call.
func (d *blocks) write(b, n int) (err error) {
	buf, err := unix.Mmap(-1, 0, n*blockSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Munmap(buf)) }()
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range n {
		d.gens[b+i]++
		fillBlock(buf[i*blockSize:(i+1)*blockSize], b+i, d.gens[b+i])
	}
	_, err = d.dev.WriteAt(buf, int64(b)*blockSize)
	return err
}

func fillBlock(buf []byte, b int, gen uint64) {
	for at := 0; at < len(buf); at += 16 {
		binary.LittleEndian.PutUint64(buf[at:], uint64(b))
		binary.LittleEndian.PutUint64(buf[at+8:], gen)
	}
}

// check reads n blocks from b on.
func (d *blocks) check(b, n int) (err error) {
	buf, err := unix.Mmap(-1, 0, n*blockSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Munmap(buf)) }()
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, err := d.dev.ReadAt(buf, int64(b)*blockSize); err != nil {
		return err
	}
	want := make([]byte, blockSize)
	for i := range n {
		fillBlock(want, b+i, d.gens[b+i])
		if string(want) != string(buf[i*blockSize:(i+1)*blockSize]) {
			return fmt.Errorf("block %d is not what was written last", b+i)
		}
	}
	return nil
}

// TestPinnedSpaceIsFreedUnderAWriter rewrites what pins dead space while blocks are
// written and read back all the time, and then checks every block.
func TestPinnedSpaceIsFreedUnderAWriter(t *testing.T) {
	b := newBench(t, volume.GiB, nil, "default")
	p := b.poolNamed("default")
	v := b.create(volume.Spec{Name: "v", Size: 256 * volume.MiB, Format: volume.Format{Mode: volume.ModeBlock, SectorSize: 4096}})
	dev, err := b.Attach(t.Context(), v.ID)
	if err != nil {
		t.Fatal(err)
	}
	d := newBlocks(t, dev.Path)
	defer func() {
		if err := errors.Join(d.dev.Close(), dev.Close(), b.Detach(t.Context(), v.ID)); err != nil {
			t.Error(err)
		}
	}()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for at := 0; at < imageBlocks; at += 256 {
		must(d.write(at, 256))
	}
	must(b.snapshot("s", v.ID))
	for at := 0; at+65 < imageBlocks; at += 65 { // one of 65 stays
		must(d.write(at, 64))
	}
	must(b.DeleteSnapshot(t.Context(), volume.NewID(volume.KindSnapshot, p.id, "s")))
	within(t, soon, "the trash is empty", func() bool { return len(b.leftovers()) == 0 })
	img, err := p.openImage(object{record: record{ID: v.ID, Size: v.Size}, dir: objectDir(v.ID)}, unix.O_RDONLY)
	must(err)
	defer img.Close()
	before, err := p.store.(rewriter).pins(img)
	must(err)
	free := b.free()
	must(p.measure(v.ID))
	charged := b.owed(v.ID)

	stop, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- d.disturb(stop) }()
	start := time.Now()
	o, _ := p.lookup(v.ID)
	if !o.copied {
		t.Error("the volume is not known to have been copied")
	}
	stopped := sync.OnceFunc(func() {
		close(stop)
		must(<-done)
	})
	defer stopped()
	must(p.rewriteVolume(t.Context(), p.store.(rewriter), v.ID))
	took := time.Since(start)
	stopped()

	after, err := p.store.(rewriter).pins(img)
	must(err)
	gained := b.free() - free
	must(p.measure(v.ID))
	still := b.owed(v.ID)
	t.Logf("%s of %s were dead, then %s of %s; %s became free in %s; charged with %s, then %s", before.dead, before.held, after.dead, after.held, gained, took, charged, still)
	if gained < before.dead/2 || after.dead > before.dead/4 {
		t.Error("too little was freed")
	}
	if still >= charged {
		t.Error("the volume is charged as before")
	}
	for at := 0; at < imageBlocks; at += 256 {
		must(d.check(at, 256))
	}
}

// disturb writes random blocks and reads others back until stop.
func (d *blocks) disturb(stop chan struct{}) error {
	rnd := rand.New(rand.NewPCG(1, 2))
	for {
		select {
		case <-stop:
			return nil
		default:
		}
		if err := d.write(rnd.IntN(imageBlocks-4), 1+rnd.IntN(4)); err != nil {
			return err
		}
		if err := d.check(rnd.IntN(imageBlocks-4), 4); err != nil {
			return err
		}
	}
}

// owed is what a volume is charged with.
func (b *bench) owed(id volume.ID) volume.Bytes {
	b.t.Helper()
	p := b.poolNamed("default")
	p.mu.Lock()
	defer p.mu.Unlock()
	charge, err := p.chargeOf(*p.objects[id], false)
	if err != nil {
		b.t.Fatal(err)
	}
	return charge
}
