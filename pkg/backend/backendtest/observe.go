package backendtest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// volumes are those that the scenario made; the whole list is checked.
func (s *session) volumes() []volume.Volume {
	all, err := s.engine().Volumes(s.ctx)
	if err != nil {
		s.failf("list volumes: %w", err)
	}
	return ours(s, all, func(v volume.Volume) (volume.ID, string) { return v.ID, v.Name })
}

// snapshots are those that the scenario took; the whole list is checked.
func (s *session) snapshots() []volume.Snapshot {
	all, err := s.engine().Snapshots(s.ctx)
	if err != nil {
		s.failf("list snapshots: %w", err)
	}
	return ours(s, all, func(v volume.Snapshot) (volume.ID, string) { return v.ID, v.Name })
}

func ours[T any](s *session, all []T, of func(T) (volume.ID, string)) []T {
	var mine []T
	for i, o := range all {
		id, name := of(o)
		if i > 0 {
			if before, _ := of(all[i-1]); before >= id {
				s.failf("a list is not in order of ID: %s comes before %s", before, id)
			}
		}
		if strings.HasPrefix(name, s.prefix) {
			mine = append(mine, o)
		}
	}
	return mine
}

// consistent checks that whatever is listed is complete, can be found, and is
// what its record says.
func (s *session) consistent() {
	for _, v := range s.volumes() {
		s.completeVolume(v)
		found, err := s.engine().Volume(s.ctx, v.ID)
		if err != nil {
			s.failf("volume %s is listed but not found: %w", v.ID, err)
		}
		if diff := cmp.Diff(v, found); diff != "" {
			s.failf("volume %s is found with other properties than it is listed with (-listed +found):\n%s", v.ID, diff)
		}
		if a := s.engine().Attacher; a != nil {
			attachable, err := a.Volume(s.ctx, v.ID)
			if err != nil {
				s.failf("volume %s is listed but the Attacher does not find it: %w", v.ID, err)
			}
			if diff := cmp.Diff(v, attachable); diff != "" {
				s.failf("the Attacher finds volume %s with other properties (-listed +found):\n%s", v.ID, diff)
			}
		}
	}
	for _, snap := range s.snapshots() {
		s.completeSnapshot(snap)
		found, err := s.engine().Snapshot(s.ctx, snap.ID)
		if err != nil {
			s.failf("snapshot %s is listed but not found: %w", snap.ID, err)
		}
		if diff := cmp.Diff(snap, found); diff != "" {
			s.failf("snapshot %s is found with other properties than it is listed with (-listed +found):\n%s", snap.ID, diff)
		}
	}
}

func (s *session) completeVolume(v volume.Volume) {
	s.completeID(volume.KindVolume, v.ID, v.Name)
	s.completeSize(v.ID, v.Size, v.BirthSize, v.Format)
	s.completeTime(v.ID, v.Created)
}

func (s *session) completeSnapshot(snap volume.Snapshot) {
	s.completeID(volume.KindSnapshot, snap.ID, snap.Name)
	s.completeSize(snap.ID, snap.Size, snap.BirthSize, snap.Format)
	s.completeTime(snap.ID, snap.Created)
	if snap.Source.Kind() != volume.KindVolume {
		s.failf("the source of snapshot %s is %q, which is not a volume", snap.ID, snap.Source)
	}
}

func (s *session) completeID(kind volume.Kind, id volume.ID, name string) {
	if want := volume.NewID(kind, id.Pool(), name); id != want {
		s.failf("the id of the %s %.60q is %s, want %s", kind, name, id, want)
	}
	if _, err := volume.ParseID(kind, string(id)); err != nil {
		s.failf("the id of the %s %.60q: %w", kind, name, err)
	}
}

func (s *session) completeSize(id volume.ID, size, birth volume.Bytes, f volume.Format) {
	if size%volume.Alignment != 0 || size < f.MinSize() || size > volume.MaxSize {
		s.failf("%s (%s) has a size that it cannot have: %d bytes", id, f, size)
	}
	if birth <= 0 || birth > size {
		s.failf("%s has %d bytes, at birth it had %d: want more than 0 and at most its size", id, size, birth)
	}
	if resolved, err := f.Resolve(nil); err != nil || resolved != f {
		s.failf("the format of %s is not complete: %+v (%w)", id, f, answered(err))
	}
}

func (s *session) completeTime(id volume.ID, created time.Time) {
	if age := time.Since(created); age < -time.Minute || age > time.Hour {
		s.failf("%s was created %s, which is not now", id, created)
	}
}

// objects describes all objects of the session, in order of name, without what
// differs from run to run.
func (s *session) objects() []string {
	lines := []string{}
	for _, v := range s.volumes() {
		lines = append(lines, fmt.Sprintf("volume %.60q in pool %s: %d bytes, born with %d, %s, made from %q%q", strings.TrimPrefix(v.Name, s.prefix),
			s.poolName(v.ID), v.Size, v.BirthSize, v.Format, s.nameOf(v.Source.Volume), s.nameOf(v.Source.Snapshot)))
	}
	for _, snap := range s.snapshots() {
		lines = append(lines, fmt.Sprintf("snapshot %.60q in pool %s: %d bytes, born with %d, %s, of %q, consistency %q", strings.TrimPrefix(snap.Name, s.prefix),
			s.poolName(snap.ID), snap.Size, snap.BirthSize, snap.Format, s.nameOf(snap.Source), snap.Consistency))
	}
	slices.Sort(lines)
	return lines
}

func (s *session) nameOf(id volume.ID) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.names[string(id)]
}

func (s *session) poolName(id volume.ID) string {
	for _, p := range s.engine().Pools() {
		if p.ID == id.Pool() {
			return p.Name
		}
	}
	s.failf("%s is in a pool that the engine does not have", id)
	return ""
}

// readUntil reads everything over and over, while others change it, and checks
// that it never sees half an object.
func (s *session) readUntil(done <-chan struct{}) error {
	return s.protect(func() {
		s.prefix = ""
		for {
			select {
			case <-done:
				return
			default:
			}
			for _, v := range s.volumes() {
				s.completeVolume(v)
				if _, err := s.engine().Volume(s.ctx, v.ID); err != nil && !errors.Is(err, volume.ErrNotFound) {
					s.failf("find volume %s while it may be deleted: %w", v.ID, err)
				}
			}
			for _, snap := range s.snapshots() {
				s.completeSnapshot(snap)
				if _, err := s.engine().Snapshot(s.ctx, snap.ID); err != nil && !errors.Is(err, volume.ErrNotFound) {
					s.failf("find snapshot %s while it may be deleted: %w", snap.ID, err)
				}
			}
			s.capacity("", nil)
			time.Sleep(time.Millisecond) // leave the machine to those who write
		}
	})
}

// cleanUp deletes everything that the session made and checks that it is gone.
func (s *session) cleanUp() error {
	s.acting = false
	return s.protect(func() {
		s.closeDevices()
		for _, v := range s.volumes() {
			if a := s.engine().Attacher; a != nil {
				if err := a.Detach(s.ctx, v.ID); err != nil {
					s.failf("clean up: detach %s: %w", v.ID, err)
				}
				s.notAttached(v.ID)
			}
			if err := s.engine().DeleteVolume(s.ctx, v.ID); err != nil {
				s.failf("clean up: delete volume %s: %w", v.ID, err)
			}
		}
		for _, snap := range s.snapshots() {
			if err := s.engine().DeleteSnapshot(s.ctx, snap.ID); err != nil {
				s.failf("clean up: delete snapshot %s: %w", snap.ID, err)
			}
		}
		if left := s.objects(); len(left) > 0 {
			s.failf("deleted, but still listed: %q", left)
		}
	})
}
