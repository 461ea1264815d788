package local

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// What a block volume may still need is not taken by an import, also while no
// filesystem is mounted that the guard could freeze.
func TestAnImportLeavesWhatBlockVolumesMayNeed(t *testing.T) {
	onEach(t, func(t *testing.T, pool string) {
		g := newGuarded(t, pool, 2*volume.GiB, 4, nil)
		p := g.poolNamed("default")
		const content = 512 * volume.MiB
		if err := p.importCovered("", content); err != nil {
			t.Errorf("an empty pool: %v", err)
		}
		g.create(sized(blockSpec("b"), g.cover()-content))
		if err := p.importCovered("", content); !errors.Is(err, volume.ErrNoSpace) {
			t.Errorf("%s are covered and a block volume may need all but %s of it; an import of as much: %v", g.cover(), volume.Bytes(content), err)
		}
		if err := p.importCovered("", 0); err != nil {
			t.Errorf("an import of nothing: %v", err)
		}
	})
}

// While an import runs, others write: it is the import that ends.
func TestAnImportEndsBeforeThePoolIsFull(t *testing.T) {
	onEach(t, func(t *testing.T, pool string) {
		g := newGuarded(t, pool, 1536*volume.MiB, 4, nil)
		img := noisyImage(t, 160*volume.MiB)
		taken := false
		_, err := g.Import(t.Context(), ImportSpec{Name: "a", Source: img, Progress: func(volume.Bytes, volume.Bytes) {
			for i := 0; !taken && g.cover() > 145*volume.MiB; i++ { // the cover is not linear
				g.takeSpace(fmt.Sprint("others", i), g.cover()-130*volume.MiB)
			}
			taken = true
		}})
		if !errors.Is(err, volume.ErrNoSpace) || !strings.Contains(err.Error(), "broken off") {
			t.Errorf("it ended with %v", err)
		}
		if left := g.leftovers(); len(left) > 0 || len(g.volumes()) > 0 {
			t.Errorf("left: %v, %d volumes", left, len(g.volumes()))
		}
	})
}

// A block volume that is being imported is kept as one that is there.
func TestTheGuardKeepsWhatAnImportOfABlockVolumeMayNeed(t *testing.T) {
	g := newGuarded(t, "xfs", 2*volume.GiB, 4, nil)
	p := g.poolNamed("default")
	const size = 512 * volume.MiB
	asked := false
	got := g.imports(ImportSpec{Name: "a", Source: noisyImage(t, 4*volume.MiB), Size: size, Progress: func(volume.Bytes, volume.Bytes) {
		asked = true
		owes, err := p.appetite(nil)
		if err != nil || owes.blocks < size-8*volume.MiB || owes.blocks > size {
			t.Errorf("the guard keeps %s, %v", owes.blocks, err)
		}
	}})
	if owes, err := p.appetite(nil); err != nil || owes.blocks < size-8*volume.MiB || owes.blocks > size || !asked {
		t.Errorf("of %s the guard keeps %s, %v", got.Volume.Size, owes.blocks, err)
	}
}

// What is copied does not wait in memory where nobody reckons with it.
func TestWhatAnImportHasInMemoryIsBounded(t *testing.T) {
	g := newGuarded(t, "xfs", 2*volume.GiB, 4, nil)
	asked := false
	g.imports(ImportSpec{Name: "a", Source: heap(t), Progress: func(volume.Bytes, volume.Bytes) {
		if asked {
			return
		}
		asked = true
		d, err := g.loops.Open(loop.Wanted{Tag: importTag})
		if err != nil || d == nil {
			t.Fatalf("the device of the import: %v, %v", d, err)
		}
		defer d.Close()
		if limit, err := d.DirtyLimit(); err != nil || limit == 0 || limit > 2*dirtyBound {
			t.Errorf("its bound is %s, %v", limit, err)
		}
	}})
	if !asked {
		t.Error("there was no progress")
	}
}
