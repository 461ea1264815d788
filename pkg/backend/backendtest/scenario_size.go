package backendtest

import (
	"math"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func sizeScenarios() []scenario {
	return []scenario{
		{name: "a size is rounded up to what the format needs", table: true, changes: true, run: func(s *session) {
			s.act()
			for _, c := range []struct {
				name      string
				format    volume.Format
				asked     volume.Bytes
				limit     volume.Bytes
				wantBytes volume.Bytes
			}{
				{"a tiny block volume", block, 1, 0, volume.MiB},
				{"a block volume of no full sector", block, volume.MiB + 1, 0, volume.MiB + 4*volume.KiB},
				{"a tiny ext4", ext4, 1, 0, 16 * volume.MiB},
				{"an ext4 of no full block", ext4, 20*volume.MiB + 1, 20*volume.MiB + 4*volume.KiB, 20*volume.MiB + 4*volume.KiB},
				{"a small xfs", xfs, 64 * volume.MiB, 0, 300 * volume.MiB},
				{"only a limit", block, 0, 10*volume.MiB + 5, 10 * volume.MiB},
				{"exactly the limit", block, small, small, small},
			} {
				spec := s.spec(c.name, c.asked, c.format)
				spec.Limit = c.limit
				if v := s.created(spec); v.Size != c.wantBytes {
					s.failf("%s: asked for %d bytes, got %d, want %d", c.name, c.asked, v.Size, c.wantBytes)
				}
			}
		}},
		{name: "no size means the default size", changes: true, alone: true, run: func(s *session) {
			s.act()
			if v := s.created(s.spec("a", 0, block)); v.Size != volume.DefaultSize {
				s.failf("asked for no size, got %d bytes, want %d", v.Size, volume.DefaultSize)
			}
		}},
		{name: "a limit that allows no size is out of range", run: func(s *session) {
			s.act()
			for _, c := range []struct {
				what        string
				format      volume.Format
				size, limit volume.Bytes
			}{
				{"a limit below what xfs needs", xfs, 0, 299 * volume.MiB},
				{"a limit below what ext4 needs", ext4, volume.MiB, 15 * volume.MiB},
				{"a limit below the next sector", block, small + 1, small + 2},
				{"more than the largest volume", block, volume.MaxSize + 1, 0},
				{"all that a number holds", block, math.MaxInt64, 0},
				{"all that a number holds as a limit too", ext4, math.MaxInt64, math.MaxInt64},
			} {
				spec := s.spec("a", c.size, c.format)
				spec.Limit = c.limit
				_, err := s.create(spec)
				s.refused(err, volume.ErrOutOfRange, "create a volume with "+c.what)
				s.same("the list of volumes", []volume.Volume(nil), s.volumes())
			}
		}},
		{name: "a volume that the pool cannot promise is refused", alone: true, run: func(s *session) {
			free := s.capacity(s.engine().Pools()[0].Name, nil).Available
			s.act()
			for _, f := range []volume.Format{block, ext4, xfs} {
				_, err := s.create(s.spec("a", free+volume.GiB, f))
				s.refused(err, volume.ErrNoSpace, "create a volume of more than the pool has")
			}
			s.same("the list of volumes", []volume.Volume(nil), s.volumes())
		}},
		{name: "the largest volume can be created and a larger one not", changes: true, alone: true, run: func(s *session) {
			pool := s.engine().Pools()[0].Name
			before := s.capacity(pool, nil)
			s.act()
			_, err := s.create(s.spec("larger", before.MaxVolume+volume.GiB, block))
			s.refused(err, volume.ErrNoSpace, "create a volume of more than MaxVolume")
			v := s.largest(pool)
			if after := s.capacity(pool, nil); after.Available > before.Available-v.Size/2 {
				s.failf("%s were available, a volume of %s was created, now %s are", before.Available, v.Size, after.Available)
			}
			// What the pool had differs from run to run.
			s.succeeds(s.deleteVolume(v.ID), "delete the largest volume")
		}},
	}
}

// largest creates a volume of MaxVolume. A real filesystem may need a little for
// itself in between, so it has more than one try.
func (s *session) largest(pool string) volume.Volume {
	var err error
	for range 5 {
		size := s.capacity(pool, nil).MaxVolume
		var v volume.Volume
		if v, err = s.create(s.spec("largest", size, block)); err == nil {
			if v.Size != size {
				s.failf("asked for %d bytes, got %d", size, v.Size)
			}
			return v
		}
	}
	s.failf("create a volume of MaxVolume: %w", err)
	return volume.Volume{}
}
