package backendtest

import (
	"math"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func expandScenarios() []scenario {
	expand := []need{needExpansion}
	return []scenario{
		{name: "expand a filesystem volume", needs: expand, changes: true, run: func(s *session) {
			v := s.created(s.spec("a", small, ext4))
			s.act()
			s.expandsTo(v, 2*small, 0, 2*small)
		}},
		{name: "expand a block volume", needs: expand, changes: true, run: func(s *session) {
			v := s.created(s.spec("a", small, block))
			s.act()
			s.expandsTo(v, 2*small, 2*small, 2*small)
		}},
		{name: "a new size is rounded up", needs: expand, changes: true, run: func(s *session) {
			v := s.created(s.spec("a", small, block))
			s.act()
			v = s.expandsTo(v, small+1, 0, small+4*volume.KiB)
			s.expandsTo(v, small+5*volume.KiB, small+8*volume.KiB, small+8*volume.KiB)
		}},
		{name: "a volume that is large enough stays as it is", needs: expand, run: func(s *session) {
			v := s.created(s.spec("a", small, ext4))
			s.act()
			for _, size := range []volume.Bytes{small, small - 1, small / 2, 1} {
				s.expandsTo(v, size, 0, small)
				s.expandsTo(v, size, small, small)
			}
		}},
		{name: "an expansion that cannot be is refused", needs: expand, alone: true, run: func(s *session) {
			v := s.created(s.spec("a", small, block))
			free := s.capacity("", nil).Available
			s.act()
			for _, c := range []struct {
				what        string
				size, limit volume.Bytes
				want        error
			}{
				{"to more than the limit", 2 * small, small, volume.ErrInvalid},
				{"to a negative size", -1, 0, volume.ErrInvalid},
				{"to a negative limit", 2 * small, -1, volume.ErrInvalid},
				{"to a limit below its size", small / 2, small / 2, volume.ErrOutOfRange},
				{"to a limit below the next sector", small + 1, small + 2, volume.ErrOutOfRange},
				{"to more than the largest volume", volume.MaxSize + 1, 0, volume.ErrOutOfRange},
				{"to all that a number holds", math.MaxInt64, 0, volume.ErrOutOfRange},
				{"to more than the pool has", small + free + volume.GiB, 0, volume.ErrOutOfRange},
			} {
				_, err := s.expand(v.ID, c.size, c.limit)
				s.refused(err, c.want, "expand "+c.what)
				s.isVolume(v)
			}
			_, err := s.expand(volume.NewID(volume.KindVolume, v.ID.Pool(), s.name("never")), small, 0)
			s.refused(err, volume.ErrNotFound, "expand a volume that does not exist")
		}},
	}
}

// expandsTo expands a volume and checks that nothing but its size changes.
func (s *session) expandsTo(v volume.Volume, size, limit, want volume.Bytes) volume.Volume {
	got, err := s.expand(v.ID, size, limit)
	s.succeeds(err, "expand to "+size.String())
	v.Size = want
	s.same("the expanded volume", v, got)
	s.isVolume(v)
	return v
}
