package backendtest

import (
	"bytes"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// span is how much the content scenarios write at each place.
const span = 64 << 10

func contentScenarios() []scenario {
	content := []need{needContent}
	copies := []need{needContent, needSnapshots, needClones}
	return []scenario{
		{name: "a new volume reads as zeros", needs: content, changes: true, run: func(s *session) {
			v := s.created(s.spec("a", small, block))
			s.fill(v, 'x')
			s.detached(v)
			s.act()
			s.succeeds(s.deleteVolume(v.ID), "delete volume")
			again := s.created(s.spec("a", small, block))
			s.holds(again, 0)
		}},
		{name: "a repeated create leaves the content alone", needs: copies, run: func(s *session) {
			empty, source := s.spec("a", small, block), s.created(s.spec("source", small, block))
			s.fill(source, 's')
			snap := s.snapshotted(s.snapshotSpec("s", source.ID))
			specs := []volume.Spec{empty, s.copySpec("b", small, block, source.ID), s.copySpec("c", small, block, snap.ID)}
			for _, spec := range specs {
				s.fill(s.created(spec), 'x')
			}
			s.act()
			for _, spec := range specs {
				s.holds(s.created(spec), 'x')
			}
		}},
		{name: "a snapshot keeps the bytes of its instant", needs: copies, changes: true, run: func(s *session) {
			v := s.created(s.spec("a", small, block))
			s.fill(v, 'o')
			s.act()
			spec := s.snapshotSpec("s", v.ID)
			snap := s.snapshotted(spec)
			s.fill(v, 'n')
			s.snapshotted(spec) // must not take it anew
			s.holds(s.created(s.copySpec("b", small, block, snap.ID)), 'o')
			s.holds(v, 'n')
			s.holds(s.created(s.copySpec("c", small, block, v.ID)), 'n')
		}},
		{name: "a snapshot outlives its source with its bytes", needs: copies, changes: true, run: func(s *session) {
			v := s.created(s.spec("a", small, block))
			s.fill(v, 'o')
			snap := s.snapshotted(s.snapshotSpec("s", v.ID))
			s.detached(v)
			s.act()
			s.succeeds(s.deleteVolume(v.ID), "delete the source")
			s.verify()
			s.fill(s.created(s.spec("a", small, block)), 'n') // the same name, other bytes
			s.holds(s.created(s.copySpec("b", small, block, snap.ID)), 'o')
		}},
		{name: "clones and their sources are independent", needs: copies, table: true, changes: true, run: func(s *session) {
			v := s.created(s.spec("a", small, block))
			s.fill(v, 'o')
			snap := s.snapshotted(s.snapshotSpec("s", v.ID))
			s.act()
			clone, restore := s.created(s.copySpec("b", small, block, v.ID)), s.created(s.copySpec("c", small, block, snap.ID))
			s.fill(clone, 'c')
			s.fill(restore, 'r')
			s.holds(v, 'o')
			s.fill(v, 'n')
			s.holds(clone, 'c')
			s.holds(restore, 'r')
			s.holds(s.created(s.copySpec("d", small, block, snap.ID)), 'o')
		}},
		{name: "a larger copy ends in zeros", needs: copies, changes: true, run: func(s *session) {
			v := s.created(s.spec("a", small, block))
			s.fill(v, 'o')
			snap := s.snapshotted(s.snapshotSpec("s", v.ID))
			s.act()
			for _, source := range []volume.ID{v.ID, snap.ID} {
				larger := s.created(s.copySpec("copy of "+string(source.Kind()), 2*small, block, source))
				s.holds(volume.Volume{ID: larger.ID, Size: small}, 'o')
				s.reads(larger.ID, int64(small), 0)
				s.reads(larger.ID, int64(larger.Size)-span, 0)
			}
		}},
		{name: "an expansion keeps the content and adds zeros", needs: []need{needContent, needExpansion}, changes: true, run: func(s *session) {
			v := s.created(s.spec("a", small, block))
			s.fill(v, 'o')
			s.act()
			larger := s.expandsTo(v, 2*small, 0, 2*small)
			if a := s.engine().Attacher; a != nil {
				s.succeeds(s.refresh(v.ID), "refresh")
			}
			s.holds(v, 'o')
			s.reads(v.ID, int64(small), 0)
			s.reads(v.ID, int64(larger.Size)-span, 0)
			s.fill(larger, 'n')
			s.holds(larger, 'n')
		}},
		{name: "content outlives a restart and a detach", needs: content, run: func(s *session) {
			v := s.created(s.spec("a", small, block))
			s.fill(v, 'x')
			s.act()
			s.detached(v)
			if s.way.parallel == 0 && s.engine().Reopen != nil {
				s.restart()
			}
			s.holds(v, 'x')
		}},
	}
}

// places are where the content scenarios write: at the start, across a page in
// the middle, and at the end.
func places(size volume.Bytes) []int64 {
	return []int64{0, int64(size)/2 + 4096 - 512, int64(size) - span}
}

// fill writes a byte to all places of a volume.
func (s *session) fill(v volume.Volume, b byte) {
	for _, off := range places(v.Size) {
		s.succeeds(s.engine().Content.WriteAt(s.ctx, v.ID, bytes.Repeat([]byte{b}, span), off), "write")
	}
}

// holds checks that all places of a volume hold a byte.
func (s *session) holds(v volume.Volume, b byte) {
	for _, off := range places(v.Size) {
		s.reads(v.ID, off, b)
	}
}

func (s *session) reads(id volume.ID, off int64, want byte) {
	got := make([]byte, span)
	s.succeeds(s.engine().Content.ReadAt(s.ctx, id, got, off), "read")
	for i, b := range got {
		if b != want {
			s.failf("%s (%s) holds %q at byte %d, want %q", s.nameOf(id), id, b, off+int64(i), want)
		}
	}
}

// detached detaches a volume, if that is a thing here.
func (s *session) detached(v volume.Volume) {
	if s.engine().Attacher != nil {
		s.succeeds(s.detach(v.ID), "detach")
		s.notAttached(v.ID)
	}
}
