package local

import (
	"cmp"
	"slices"
)

// physical is a part of an image as it lies on the device, in bytes.
type physical struct {
	// start and bytes are the allocated extent, which stays allocated as a whole
	// while anybody refers to any part of it.
	start, bytes int64
	// offset and live are the part of it that the image shows.
	offset, live int64
}

// accounting adds up who holds which extents of a pool. Owners are numbered from 0
// and added one after the other, in order.
//
// Extents are many and the sets of their owners few, so a set is a node in a tree:
// its largest owner and the set of the others.
type accounting struct {
	extents map[int64]allocated
	sets    []ownerSet // sets[0] is the empty set
	index   map[ownerSet]int32
	used    map[int]int64 // owner -> bytes that it shows
	parts   map[int]int   // owner -> parts
}

type ownerSet struct{ others, owner int32 }

type allocated struct {
	bytes int64
	set   int32
	live  []span // what anybody shows of it, in order and apart
}

type span struct{ from, to int64 }

func newAccounting() *accounting {
	return &accounting{
		extents: map[int64]allocated{}, sets: []ownerSet{{}}, index: map[ownerSet]int32{},
		used: map[int]int64{}, parts: map[int]int{},
	}
}

// add says that owner shows a part. No owner is added after a larger one.
func (a *accounting) add(owner int, p physical) {
	a.used[owner] += p.live
	a.parts[owner]++
	e := a.extents[p.start]
	e.bytes = max(e.bytes, p.bytes)
	if e.set == 0 || a.sets[e.set].owner != int32(owner) {
		e.set = a.with(e.set, int32(owner))
	}
	e.live = include(e.live, span{p.offset, p.offset + p.live})
	a.extents[p.start] = e
}

func (a *accounting) with(others, owner int32) int32 {
	key := ownerSet{others, owner}
	set, ok := a.index[key]
	if !ok {
		set = int32(len(a.sets))
		a.sets = append(a.sets, key)
		a.index[key] = set
	}
	return set
}

// include adds a span to spans that are in order and apart, and keeps them so.
func include(spans []span, s span) []span {
	if len(spans) == 1 && spans[0].from <= s.from && s.to <= spans[0].to {
		return spans // by far the most frequent
	}
	first := 0
	for first < len(spans) && spans[first].to < s.from {
		first++
	}
	last := first
	for last < len(spans) && spans[last].from <= s.to {
		s.from, s.to = min(s.from, spans[last].from), max(s.to, spans[last].to)
		last++
	}
	return slices.Replace(spans, first, last, s)
}

// shared adds up by set of owners.
type shared struct {
	owners      []int
	bytes, dead int64 // allocated; of these, what no owner shows
}

// bySet is all that was added, by set of owners.
func (a *accounting) bySet() []shared {
	out := make([]shared, len(a.sets))
	for set := range out {
		for at := int32(set); at != 0; at = a.sets[at].others {
			out[set].owners = append(out[set].owners, int(a.sets[at].owner))
		}
	}
	for _, e := range a.extents {
		dead := e.bytes
		for _, s := range e.live {
			dead -= s.to - s.from
		}
		out[e.set].bytes += e.bytes
		out[e.set].dead += max(0, dead)
	}
	return out[1:]
}

// holding is what one owner has, in bytes.
type holding struct {
	used      int64 // what it shows
	exclusive int64 // what would be free without it
	dead      int64 // of the extents that it holds, what nobody shows
	extents   int
}

// holdings are those of the first owners.
func (a *accounting) holdings(owners int) []holding {
	out := make([]holding, owners)
	for i := range out {
		out[i] = holding{used: a.used[i], extents: a.parts[i]}
	}
	for _, s := range a.bySet() {
		for _, o := range s.owners {
			if o >= owners {
				continue
			}
			out[o].dead += s.dead
			if len(s.owners) == 1 {
				out[o].exclusive += s.bytes
			}
		}
	}
	return out
}

// owned is a part with its owner.
type owned struct {
	owner int
	physical
}

// cut splits parts where any of them begins or ends, for a filesystem on which
// every block is free as soon as nobody refers to it: each piece then is an extent
// of its own. It returns them in order of owner, as add wants them.
func cut(parts []owned) []owned {
	var edges []int64
	for _, p := range parts {
		edges = append(edges, p.start, p.start+p.bytes)
	}
	slices.Sort(edges)
	edges = slices.Compact(edges)
	var out []owned
	for _, p := range parts {
		at, _ := slices.BinarySearch(edges, p.start)
		for ; edges[at] < p.start+p.bytes; at++ {
			n := edges[at+1] - edges[at]
			out = append(out, owned{p.owner, physical{start: edges[at], bytes: n, live: n}})
		}
	}
	slices.SortStableFunc(out, func(x, y owned) int { return cmp.Compare(x.owner, y.owner) })
	return out
}
