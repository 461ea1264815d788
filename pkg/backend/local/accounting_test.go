package local

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A volume of 100 whose snapshot holds what it was; then 60 in the middle of the
// volume were overwritten, 20 of these twice.
func TestAccountingOfAVolumeAndItsSnapshot(t *testing.T) {
	a := newAccounting()
	const vol, snap = 0, 1
	a.add(vol, physical{start: 1000, bytes: 100, offset: 0, live: 20})
	a.add(vol, physical{start: 2000, bytes: 60, offset: 0, live: 20})
	a.add(vol, physical{start: 3000, bytes: 20, offset: 0, live: 20})
	a.add(vol, physical{start: 2000, bytes: 60, offset: 40, live: 20})
	a.add(vol, physical{start: 1000, bytes: 100, offset: 80, live: 20})
	a.add(snap, physical{start: 1000, bytes: 100, offset: 0, live: 100})
	want := []holding{
		{used: 100, exclusive: 80, dead: 20, extents: 5},
		{used: 100, exclusive: 0, dead: 0, extents: 1},
	}
	if diff := cmp.Diff(want, a.holdings(2), cmp.AllowUnexported(holding{})); diff != "" {
		t.Errorf("with the snapshot (-want +got):\n%s", diff)
	}
	if got := a.heldOnlyBy(func(o int) bool { return o == snap }); got != 0 {
		t.Errorf("only the snapshot holds %d", got)
	}

	// The volume overwrites the rest: only the snapshot holds what was.
	a = newAccounting()
	a.add(vol, physical{start: 4000, bytes: 100, live: 100})
	a.add(snap, physical{start: 1000, bytes: 100, live: 100})
	if got := a.heldOnlyBy(func(o int) bool { return o == snap }); got != 100 {
		t.Errorf("only the snapshot holds %d", got)
	}

	// One block pins its whole old extent (S14).
	a = newAccounting()
	a.add(vol, physical{start: 1000, bytes: 100, offset: 50, live: 1})
	want = []holding{{used: 1, exclusive: 100, dead: 99, extents: 1}}
	if diff := cmp.Diff(want, a.holdings(1), cmp.AllowUnexported(holding{})); diff != "" {
		t.Errorf("one block of an extent (-want +got):\n%s", diff)
	}
}

func TestSpansStayInOrderAndApart(t *testing.T) {
	for _, c := range []struct {
		spans []span
		add   span
		want  []span
	}{
		{nil, span{1, 2}, []span{{1, 2}}},
		{[]span{{1, 2}}, span{1, 2}, []span{{1, 2}}},
		{[]span{{1, 2}}, span{2, 3}, []span{{1, 3}}},
		{[]span{{5, 6}}, span{2, 3}, []span{{2, 3}, {5, 6}}},
		{[]span{{1, 2}, {5, 6}}, span{0, 9}, []span{{0, 9}}},
		{[]span{{1, 2}, {5, 6}, {8, 9}}, span{2, 5}, []span{{1, 6}, {8, 9}}},
	} {
		if got := include(slices.Clone(c.spans), c.add); !slices.Equal(got, c.want) {
			t.Errorf("%v and %v: %v", c.spans, c.add, got)
		}
	}
}

// Byte by byte, on devices so small that it can be done.
func TestAccountingAgreesWithCountingBytes(t *testing.T) {
	const device, owners = 64, 4
	rng := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		var parts []owned
		holders := make([][]int, device)
		for owner := range owners {
			for range rng.IntN(4) {
				start := rng.Int64N(device - 1)
				n := 1 + rng.Int64N(device-start)
				parts = append(parts, owned{owner, physical{start: start, bytes: n, live: n}})
				for i := start; i < start+n; i++ {
					if !slices.Contains(holders[i], owner) {
						holders[i] = append(holders[i], owner)
					}
				}
			}
		}
		a := newAccounting()
		for _, p := range cut(parts) {
			a.add(p.owner, p.physical)
		}
		got := a.holdings(owners)
		pair := func(o int) bool { return o < 2 }
		var onlyPair int64
		for owner := range owners {
			var exclusive int64
			for _, h := range holders {
				if len(h) == 1 && h[0] == owner {
					exclusive++
				}
			}
			if got[owner].exclusive != exclusive || got[owner].dead != 0 {
				t.Fatalf("%v: owner %d holds %d alone and %d dead, want %d and 0", parts, owner, got[owner].exclusive, got[owner].dead, exclusive)
			}
		}
		for _, h := range holders {
			if len(h) > 0 && !slices.ContainsFunc(h, func(o int) bool { return !pair(o) }) {
				onlyPair++
			}
		}
		if got := a.heldOnlyBy(pair); got != onlyPair {
			t.Fatalf("%v: the first two hold %d alone, want %d", parts, got, onlyPair)
		}
	}
}

// heldOnlyBy is what is held by some of those owners that in says yes to, and by
// nobody else: what would be free without all of them.
func (a *accounting) heldOnlyBy(in func(owner int) bool) (bytes int64) {
	for _, s := range a.bySet() {
		if !slices.ContainsFunc(s.owners, func(o int) bool { return !in(o) }) {
			bytes += s.bytes
		}
	}
	return bytes
}
