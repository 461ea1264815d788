package backendtest

import (
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func copyScenarios() []scenario {
	restore, clone := []need{needSnapshots}, []need{needClones}
	both := []need{needSnapshots, needClones}
	return []scenario{
		{name: "restore a filesystem snapshot", needs: restore, changes: true, run: func(s *session) {
			v := s.created(s.spec("a", small, ext4))
			snap := s.snapshotted(s.snapshotSpec("s", v.ID))
			s.act()
			s.copiesExactly(v, s.copySpec("b", small, inherit, snap.ID), small)
			s.isSnapshot(snap)
		}},
		{name: "restore a block snapshot", needs: restore, changes: true, run: func(s *session) {
			v := s.created(s.spec("a", small, block))
			snap := s.snapshotted(s.snapshotSpec("s", v.ID))
			s.act()
			s.copiesExactly(v, s.copySpec("b", small, block, snap.ID), small)
		}},
		{name: "clone a filesystem volume", needs: clone, changes: true, run: func(s *session) {
			v := s.created(s.spec("a", small, ext4))
			s.act()
			s.copiesExactly(v, s.copySpec("b", small, ext4, v.ID), small)
			s.isVolume(v)
		}},
		{name: "clone a block volume", needs: clone, changes: true, run: func(s *session) {
			v := s.created(s.spec("a", small, block))
			s.act()
			s.copiesExactly(v, s.copySpec("b", small, block, v.ID), small)
			s.isVolume(v)
		}},
		{name: "restore to a larger volume", needs: restore, changes: true, run: func(s *session) {
			v := s.created(s.spec("a", small, ext4))
			snap := s.snapshotted(s.snapshotSpec("s", v.ID))
			s.act()
			s.copiesExactly(v, s.copySpec("b", 2*small+1, ext4, snap.ID), 2*small+4*volume.KiB)
		}},
		{name: "clone to a larger volume", needs: clone, changes: true, run: func(s *session) {
			v := s.created(s.spec("a", small, block))
			s.act()
			s.copiesExactly(v, s.copySpec("b", 2*small, block, v.ID), 2*small)
		}},
		{name: "a copy is never smaller than its source", needs: both, table: true, changes: true, run: func(s *session) {
			v := s.created(s.spec("a", 2*small, ext4))
			snap := s.snapshotted(s.snapshotSpec("s", v.ID))
			s.act()
			for _, source := range []volume.ID{v.ID, snap.ID} {
				spec := s.copySpec("copy of "+string(source.Kind()), small, ext4, source)
				spec.Limit = 2*small - 1
				_, err := s.create(spec)
				s.refused(err, volume.ErrOutOfRange, "copy "+string(source)+" with a limit below its size")
				spec.Limit = 2 * small
				s.copiesExactly(v, spec, 2*small)
			}
		}},
		{name: "a copy inherits the format", needs: both, table: true, changes: true, run: func(s *session) {
			ratio := ext4
			ratio.InodeRatio = volume.InodeRatios[2]
			sector := volume.Format{Mode: volume.ModeBlock, SectorSize: 512}
			fs := s.created(s.spec("fs", small, ratio))
			blk := s.created(s.spec("blk", small, sector))
			snap := s.snapshotted(s.snapshotSpec("s", fs.ID))
			s.act()
			s.copiesExactly(fs, s.copySpec("fs restore", small, inherit, snap.ID), small)
			s.copiesExactly(fs, s.copySpec("fs clone", small, ext4, fs.ID), small)
			s.copiesExactly(blk, s.copySpec("blk clone", small, block, blk.ID), small)
		}},
		{name: "a copy of an xfs volume is xfs", needs: restore, changes: true, run: func(s *session) {
			v := s.created(s.spec("a", xfs.MinSize(), xfs))
			snap := s.snapshotted(s.snapshotSpec("s", v.ID))
			s.act()
			s.copiesExactly(v, s.copySpec("b", small, inherit, snap.ID), xfs.MinSize())
		}},
		{name: "a copy with another format is invalid", needs: both, run: func(s *session) {
			v := s.created(s.spec("a", small, ext4))
			blk := s.created(s.spec("b", small, block))
			snap := s.snapshotted(s.snapshotSpec("s", v.ID))
			ratio, sector := ext4, block
			ratio.InodeRatio, sector.SectorSize = volume.InodeRatios[0], 512
			s.act()
			for _, c := range []struct {
				what   string
				format volume.Format
				source volume.ID
			}{
				{"ext4 to xfs", xfs, v.ID}, {"an ext4 snapshot to xfs", xfs, snap.ID}, {"ext4 to block", block, v.ID},
				{"an ext4 snapshot to block", block, snap.ID}, {"ext4 to another inode ratio", ratio, snap.ID},
				{"block to ext4", ext4, blk.ID}, {"block to another sector size", sector, blk.ID},
			} {
				_, err := s.create(s.copySpec("c", small, c.format, c.source))
				s.refused(err, volume.ErrInvalid, "copy "+c.what)
			}
			s.noVolume(volume.NewID(volume.KindVolume, v.ID.Pool(), s.name("c")))
		}},
		{name: "a copy of nothing is refused", needs: both, run: func(s *session) {
			v := s.created(s.spec("a", small, ext4))
			snap := s.snapshotted(s.snapshotSpec("s", v.ID))
			s.succeeds(s.deleteSnapshot(snap.ID), "delete the snapshot")
			s.succeeds(s.deleteVolume(v.ID), "delete the volume")
			s.act()
			for _, source := range []volume.ID{v.ID, snap.ID} {
				_, err := s.create(s.copySpec("b", small, ext4, source))
				s.refused(err, volume.ErrNotFound, "copy "+string(source)+", which is gone")
			}
			s.same("the list of volumes", []volume.Volume(nil), s.volumes())
		}},
		{name: "the same copy of a source that is gone is the same volume", needs: both, run: func(s *session) {
			v := s.created(s.spec("a", small, ext4))
			snap := s.snapshotted(s.snapshotSpec("s", v.ID))
			clone, restore := s.copySpec("b", small, ext4, v.ID), s.copySpec("c", small, inherit, snap.ID)
			cloned, restored := s.created(clone), s.created(restore)
			s.succeeds(s.deleteVolume(v.ID), "delete the volume")
			s.succeeds(s.deleteSnapshot(snap.ID), "delete the snapshot")
			s.act()
			s.same("the same clone", cloned, s.created(clone))
			s.same("the same restore", restored, s.created(restore))
		}},
		{name: "copies of copies outlive what they come from", needs: both, table: true, changes: true, run: func(s *session) {
			s.act()
			v := s.created(s.spec("a", small, ext4))
			snap := s.snapshotted(s.snapshotSpec("s", v.ID))
			s.succeeds(s.deleteVolume(v.ID), "delete the source of a snapshot")
			restored := s.copiesExactly(v, s.copySpec("b", small, ext4, snap.ID), small)
			s.succeeds(s.deleteSnapshot(snap.ID), "delete the source of a restore")
			s.noSnapshot(snap.ID)
			cloned := s.copiesExactly(v, s.copySpec("c", small, ext4, restored.ID), small)
			s.succeeds(s.deleteVolume(restored.ID), "delete the source of a clone")
			s.noVolume(restored.ID)
			s.isVolume(cloned)
			s.snapshotsExactly(cloned, s.snapshotSpec("t", cloned.ID))
		}},
	}
}

// copiesExactly makes a copy of v, or of a snapshot of it, and checks every
// property.
func (s *session) copiesExactly(v volume.Volume, spec volume.Spec, size volume.Bytes) volume.Volume {
	got := s.created(spec)
	s.same("the copy", volume.Volume{
		ID: volume.NewID(volume.KindVolume, v.ID.Pool(), spec.Name), Name: spec.Name, Size: size, Format: v.Format,
		Source: spec.Source, Created: got.Created, BirthSize: v.BirthSize,
	}, got)
	return got
}
