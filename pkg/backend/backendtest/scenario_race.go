package backendtest

import (
	"fmt"
	"sync"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// crowd is how many calls the race scenarios make at once.
const crowd = 16

func raceScenarios() []scenario {
	return []scenario{
		{name: "many restores of one snapshot at once", needs: []need{needSnapshots}, once: true, run: func(s *session) {
			v := s.created(s.spec("a", small, ext4))
			snap := s.snapshotted(s.snapshotSpec("s", v.ID))
			got := atOnce(crowd, func(i int) (volume.Volume, error) {
				return s.create(s.copySpec(fmt.Sprintf("restore %d", i), small, ext4, snap.ID))
			})
			for i, r := range got {
				s.succeeds(r.err, fmt.Sprintf("restore %d of %d at once", i, crowd))
				s.isVolume(r.answer)
			}
			if n := len(s.volumes()); n != crowd+1 {
				s.failf("%d restores and their source are %d volumes", crowd, n)
			}
		}},
		{name: "identical creates at once are one volume", once: true, run: func(s *session) {
			spec := s.spec("a", small, ext4)
			s.agree(atOnce(crowd, func(int) (volume.Volume, error) { return s.create(spec) }))
			s.isOnlyVolume(s.created(spec))
		}},
		{name: "identical clones at once are one volume", needs: []need{needClones}, once: true, run: func(s *session) {
			v := s.created(s.spec("source", small, block))
			spec := s.copySpec("a", small, block, v.ID)
			s.agree(atOnce(crowd, func(int) (volume.Volume, error) { return s.create(spec) }))
			s.created(spec)
			if n := len(s.volumes()); n != 2 {
				s.failf("a clone, asked for %d times at once, and its source are %d volumes", crowd, n)
			}
		}},
		{name: "creates of one name at once that differ are one volume", needs: []need{needTwoPools}, once: true, run: func(s *session) {
			pools := s.engine().Pools()
			spec := func(i int) volume.Spec {
				spec := s.spec("a", small, block)
				spec.Pool = pools[i%len(pools)].Name
				return spec
			}
			atOnce(crowd, func(i int) (volume.Volume, error) { return s.create(spec(i)) })
			if n := len(s.volumes()); n > 1 {
				s.failf("one name, asked for in several pools at once, is %d volumes", n)
			}
		}},
		{name: "identical snapshots at once are one snapshot", needs: []need{needSnapshots}, once: true, run: func(s *session) {
			v := s.created(s.spec("a", small, ext4))
			spec := s.snapshotSpec("s", v.ID)
			got := atOnce(crowd, func(int) (volume.Snapshot, error) { return s.snapshot(spec) })
			snap := s.snapshotted(spec)
			for _, r := range got {
				if r.err == nil && !cmp.Equal(r.answer, snap) {
					s.failf("one snapshot, asked for %d times at once, is %+v and %+v", crowd, r.answer, snap)
				}
			}
			s.same("the list of snapshots", []volume.Snapshot{snap}, s.snapshots())
		}},
		{name: "identical expansions at once are one expansion", needs: []need{needExpansion}, once: true, run: func(s *session) {
			v := s.created(s.spec("a", small, block))
			atOnce(crowd, func(int) (volume.Volume, error) { return s.expand(v.ID, 2*small, 0) })
			s.expandsTo(v, 2*small, 0, 2*small)
		}},
		{name: "identical attachments at once are one device", needs: []need{needAttacher}, once: true, run: func(s *session) {
			v := s.created(s.spec("a", small, block))
			atOnce(crowd, func(int) (struct{}, error) { _, err := s.attach(v.ID); return struct{}{}, err })
			dev := s.attached(v)
			s.mu.Lock()
			defer s.mu.Unlock()
			for d := range s.devices {
				s.sameDevice(dev, d)
			}
		}},
		{name: "create and delete at once end in all or nothing", once: true, run: func(s *session) {
			spec := s.spec("a", small, ext4)
			id := s.created(spec).ID
			atOnce(crowd, func(i int) (struct{}, error) {
				if i%2 == 0 {
					return struct{}{}, s.deleteVolume(id)
				}
				_, err := s.create(spec)
				return struct{}{}, err
			})
			s.consistent()
			s.isOnlyVolume(s.created(spec))
		}},
		{name: "a source that goes while it is copied", needs: []need{needSnapshots, needClones}, once: true, run: func(s *session) {
			v := s.created(s.spec("a", small, ext4))
			got := atOnce(crowd, func(i int) (struct{}, error) {
				switch {
				case i == crowd/2:
					return struct{}{}, s.deleteVolume(v.ID)
				case i%2 == 0:
					_, err := s.create(s.copySpec(fmt.Sprintf("clone %d", i), small, ext4, v.ID))
					return struct{}{}, err
				default:
					_, err := s.snapshot(s.snapshotSpec(fmt.Sprintf("snapshot %d", i), v.ID))
					return struct{}{}, err
				}
			})
			done := 0
			for i, r := range got {
				if r.err == nil && i != crowd/2 {
					done++
				}
			}
			s.consistent()
			s.succeeds(s.deleteVolume(v.ID), "delete the source")
			if n := len(s.volumes()) + len(s.snapshots()); n < done {
				s.failf("%d copies were acknowledged, %d exist", done, n)
			}
		}},
	}
}

// outcomeOf is what a call of a crowd ended in.
type outcomeOf[T any] struct {
	answer T
	err    error
}

// atOnce makes n calls at the same time.
func atOnce[T any](n int, do func(i int) (T, error)) []outcomeOf[T] {
	got := make([]outcomeOf[T], n)
	var ready, done sync.WaitGroup
	ready.Add(1)
	for i := range n {
		done.Go(func() {
			ready.Wait()
			got[i].answer, got[i].err = do(i)
		})
	}
	ready.Done()
	done.Wait()
	return got
}

// agree checks that all calls that succeeded gave the same volume, and that the
// volume is that.
func (s *session) agree(got []outcomeOf[volume.Volume]) {
	succeeded := 0
	for _, r := range got {
		if r.err == nil {
			succeeded++
			s.isVolume(r.answer)
		}
	}
	if succeeded == 0 {
		s.failf("of %d identical calls at once none succeeded, the first says: %w", len(got), got[0].err)
	}
}

func (s *session) isOnlyVolume(v volume.Volume) {
	s.same("the list of volumes", []volume.Volume{v}, s.volumes())
}
