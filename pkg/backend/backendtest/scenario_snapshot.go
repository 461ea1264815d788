package backendtest

import (
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func snapshotScenarios() []scenario {
	snapshots := []need{needSnapshots}
	return []scenario{
		{name: "take a snapshot of a filesystem volume", needs: snapshots, changes: true, run: func(s *session) {
			f := volume.Format{Mode: volume.ModeFilesystem, FSType: volume.Ext4, SectorSize: 4096, InodeRatio: volume.InodeRatios[1]}
			v := s.created(s.spec("a", small, f))
			s.act()
			s.snapshotsExactly(v, s.snapshotSpec("s", v.ID))
		}},
		{name: "take a snapshot of a block volume without a freeze", needs: snapshots, changes: true, run: func(s *session) {
			v := s.created(s.spec("a", small, volume.Format{Mode: volume.ModeBlock, SectorSize: 512}))
			s.act()
			spec := s.snapshotSpec("s", v.ID)
			spec.Consistency = volume.ConsistencyCrash
			s.snapshotsExactly(v, spec)
		}},
		{name: "take several snapshots of a volume", needs: snapshots, table: true, changes: true, run: func(s *session) {
			v := s.created(s.spec("a", small, block))
			s.act()
			for _, name := range []string{"s", "t", "a"} {
				s.snapshotsExactly(v, s.snapshotSpec(name, v.ID))
			}
		}},
		{name: "a snapshot has the size of then", needs: []need{needSnapshots, needExpansion}, changes: true, run: func(s *session) {
			v := s.created(s.spec("a", small, block))
			s.act()
			before := s.snapshotsExactly(v, s.snapshotSpec("before", v.ID))
			v = s.expandsTo(v, 2*small, 0, 2*small)
			s.snapshotsExactly(v, s.snapshotSpec("after", v.ID))
			s.isSnapshot(before)
			s.same("the same snapshot taken again", before, s.snapshotted(s.snapshotSpec("before", v.ID)))
		}},
		{name: "the same snapshot of a source that is gone is the same snapshot", needs: snapshots, run: func(s *session) {
			v := s.created(s.spec("a", small, ext4))
			spec := s.snapshotSpec("s", v.ID)
			snap := s.snapshotted(spec)
			s.succeeds(s.deleteVolume(v.ID), "delete the source")
			s.act()
			s.isSnapshot(snap)
			s.same("the same snapshot", snap, s.snapshotted(spec))
		}},
		{name: "a snapshot that differs finds the name taken", needs: snapshots, run: func(s *session) {
			v := s.created(s.spec("a", small, ext4))
			other := s.created(s.spec("b", small, ext4))
			snap := s.snapshotted(s.snapshotSpec("s", v.ID))
			s.act()
			_, err := s.snapshot(s.snapshotSpec("s", other.ID))
			s.refused(err, volume.ErrExists, "take a snapshot of another volume under the same name")
			spec := s.snapshotSpec("s", v.ID)
			spec.Consistency = volume.ConsistencyCrash
			_, err = s.snapshot(spec)
			s.refused(err, volume.ErrExists, "take a snapshot with another consistency under the same name")
			s.isSnapshot(snap)
		}},
		{name: "a snapshot name is taken in every pool", needs: []need{needSnapshots, needTwoPools}, run: func(s *session) {
			v := s.created(s.spec("a", small, ext4))
			elsewhere := s.spec("b", small, ext4)
			elsewhere.Pool = s.engine().Pools()[1].Name
			other := s.created(elsewhere)
			snap := s.snapshotted(s.snapshotSpec("s", v.ID))
			s.act()
			_, err := s.snapshot(s.snapshotSpec("s", other.ID))
			s.refused(err, volume.ErrExists, "take a snapshot in another pool under the same name")
			s.isSnapshot(snap)
		}},
		{name: "a snapshot of nothing is refused", needs: snapshots, run: func(s *session) {
			v := s.created(s.spec("a", small, ext4))
			s.succeeds(s.deleteVolume(v.ID), "delete the source")
			s.act()
			for _, id := range []volume.ID{v.ID, volume.NewID(volume.KindVolume, v.ID.Pool(), s.name("never")), ""} {
				_, err := s.snapshot(s.snapshotSpec("s", id))
				s.refused(err, volume.ErrNotFound, "take a snapshot of a volume that does not exist")
			}
			s.noSnapshot(volume.NewID(volume.KindSnapshot, v.ID.Pool(), s.name("s")))
		}},
	}
}

// snapshotsExactly takes a snapshot of v and checks every property of it, and
// that v stays as it is.
func (s *session) snapshotsExactly(v volume.Volume, spec volume.SnapshotSpec) volume.Snapshot {
	snap := s.snapshotted(spec)
	s.same("the new snapshot", volume.Snapshot{
		ID: volume.NewID(volume.KindSnapshot, v.ID.Pool(), spec.Name), Name: spec.Name, Source: v.ID, Size: v.Size, Format: v.Format,
		Consistency: spec.Consistency, Created: snap.Created, BirthSize: v.BirthSize,
	}, snap)
	s.isVolume(v)
	return snap
}
