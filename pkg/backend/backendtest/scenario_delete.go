package backendtest

import (
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func deleteScenarios() []scenario {
	return []scenario{
		{name: "delete a filesystem volume", changes: true, run: func(s *session) {
			v := s.created(s.spec("a", small, ext4))
			s.act()
			s.succeeds(s.deleteVolume(v.ID), "delete volume")
			s.noVolume(v.ID)
		}},
		{name: "delete a block volume", changes: true, run: func(s *session) {
			v := s.created(s.spec("a", small, block))
			kept := s.created(s.spec("b", small, block))
			s.act()
			s.succeeds(s.deleteVolume(v.ID), "delete volume")
			s.noVolume(v.ID)
			s.isVolume(kept)
		}},
		{name: "delete a snapshot", needs: []need{needSnapshots}, changes: true, run: func(s *session) {
			v := s.created(s.spec("a", small, ext4))
			snap := s.snapshotted(s.snapshotSpec("s", v.ID))
			kept := s.snapshotted(s.snapshotSpec("t", v.ID))
			s.act()
			s.succeeds(s.deleteSnapshot(snap.ID), "delete snapshot")
			s.noSnapshot(snap.ID)
			s.isSnapshot(kept)
			s.isVolume(v)
		}},
		{name: "delete what does not exist", once: true, run: func(s *session) {
			pool := s.engine().Pools()[0].ID
			never := volume.NewID(volume.KindVolume, pool, s.name("never"))
			neverSnapshot := volume.NewID(volume.KindSnapshot, pool, s.name("never"))
			for _, id := range []volume.ID{never, neverSnapshot, "", "x", "vol..", "../../volumes", never + "x"} {
				s.succeeds(s.deleteVolume(id), "delete the volume "+string(id))
				s.succeeds(s.deleteSnapshot(id), "delete the snapshot "+string(id))
				s.noVolume(id)
				s.noSnapshot(id)
			}
		}},
		{name: "an id of the other kind names nothing", needs: []need{needSnapshots, needClones, needExpansion}, run: func(s *session) {
			v := s.created(s.spec("a", small, ext4))
			snap := s.snapshotted(s.snapshotSpec("a", v.ID))
			s.act()
			s.succeeds(s.deleteVolume(snap.ID), "delete a volume with the id of a snapshot")
			s.succeeds(s.deleteSnapshot(v.ID), "delete a snapshot with the id of a volume")
			s.noVolume(snap.ID)
			s.noSnapshot(v.ID)
			_, err := s.expand(snap.ID, 2*small, 0)
			s.refused(err, volume.ErrNotFound, "expand a snapshot")
			_, err = s.snapshot(s.snapshotSpec("b", snap.ID))
			s.refused(err, volume.ErrNotFound, "take a snapshot of a snapshot")
			wrong := s.copySpec("c", small, ext4, "")
			wrong.Source = volume.Source{Volume: snap.ID}
			_, err = s.create(wrong)
			s.refused(err, volume.ErrNotFound, "clone a snapshot as if it were a volume")
			wrong.Source = volume.Source{Snapshot: v.ID}
			_, err = s.create(wrong)
			s.refused(err, volume.ErrNotFound, "restore a volume as if it were a snapshot")
			s.isVolume(v)
			s.isSnapshot(snap)
		}},
		{name: "a name can be used again", needs: []need{needSnapshots}, changes: true, run: func(s *session) {
			v := s.created(s.spec("a", small, ext4))
			other := s.created(s.spec("b", small, block))
			snap := s.snapshotted(s.snapshotSpec("s", v.ID))
			s.act()
			s.succeeds(s.deleteSnapshot(snap.ID), "delete snapshot")
			s.succeeds(s.deleteVolume(v.ID), "delete volume")
			again := s.createsExactly(s.spec("a", 2*small, block), 2*small, volume.Format{Mode: volume.ModeBlock, SectorSize: 4096})
			if again.ID != v.ID {
				s.failf("the same name has the id %s and then %s", v.ID, again.ID)
			}
			s.snapshotted(s.snapshotSpec("s", other.ID))
		}},
	}
}
