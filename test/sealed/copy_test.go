package sealed

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-csi/holdfast/pkg/command"
	"github.com/holdfast-csi/holdfast/pkg/filesystem"
	"github.com/holdfast-csi/holdfast/pkg/orchestrator"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/pkg/workload"
	"github.com/holdfast-csi/holdfast/test/harness"
)

func TestCopies(t *testing.T) {
	harness.OnEachFilesystem(t, func(t *testing.T, flag string) {
		s := newSite(t, poolSize, flag)
		s.run("a snapshot of a volume that is written to", copiesShareTheKey)
		s.run("a snapshot before the first publish", snapshotBeforeTheFirstPublish)
		s.run("growth and check while locked", growsWhileLocked)
	})
}

// copiesShareTheKey: snapshot, clone and restore need no key, have the record, and are
// opened with the key of their source.
func copiesShareTheKey(s *site) {
	e := s.ext4(orchestrator.Claim{Name: "source"})
	keeper := newKeeper(s.t)
	target := e.publish(keeper, "pod-1")
	e.write(filepath.Join(target, "file"), 1)
	writer, err := workload.StartJournal(filepath.Join(target, "journal"))
	s.must(err)
	s.must(writer.WaitAcked(20, 10*time.Second))
	acked, err := writer.Acked()
	s.must(err)
	began := time.Now()
	snap, err := s.driver.Snapshot(s.ctx, "snap", e.id)
	s.must(err)
	s.t.Logf("a snapshot under a writer took %s", time.Since(began))
	clone := s.ext4(orchestrator.Claim{Name: "clone", Volume: e.id})
	e.write(filepath.Join(target, "file"), 2)
	// More keys are added and removed while the filesystem is frozen.
	s.must(addsWhileFrozen(e))
	if _, err := writer.Stop(); err != nil {
		s.t.Error(err)
	}
	source, err := e.KeyID()
	s.must(err)
	e.end("pod-1")
	s.must(s.driver.Delete(s.ctx, e.id))

	restored := s.ext4(orchestrator.Claim{Name: "restored", Snapshot: snap.GetSnapshotId()})
	larger := s.ext4(orchestrator.Claim{Name: "larger", Snapshot: snap.GetSnapshotId(), Size: 128 * volume.MiB})
	for _, copied := range []*ext4{clone, restored, larger} {
		id, err := copied.KeyID()
		s.must(err)
		if id != source {
			s.t.Errorf("%s: key %s, its source has %s", copied.claim.Name, id, source)
		}
		copied.mustHaveKey(KeyAbsent) // each filesystem is unlocked for itself
		target := copied.publish(keeper, "pod-of-a-copy")
		copied.verify(filepath.Join(target, "file"), 1)
		n, err := workload.VerifyJournal(filepath.Join(target, "journal"))
		s.must(err)
		if n < acked {
			s.t.Errorf("%s: %d records, %d were acknowledged before the snapshot", copied.claim.Name, n, acked)
		}
		copied.end("pod-of-a-copy")
		s.must(s.driver.Delete(s.ctx, copied.id))
	}
	s.must(s.driver.DeleteSnapshot(s.ctx, snap.GetSnapshotId()))
}

// addsWhileFrozen adds a key to a frozen filesystem and removes it.
func addsWhileFrozen(e *ext4) (err error) {
	root, err := e.Root()
	if err != nil {
		return err
	}
	defer root.Close()
	if err := filesystem.Freeze(root); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, filesystem.Thaw(root)) }()
	id, err := AddKey(root, make([]byte, KeySize))
	if err != nil {
		return err
	}
	_, err = RemoveKeyOfAll(root, id)
	return err
}

// snapshotBeforeTheFirstPublish: with the record in the filesystem, what was never
// sealed restores to what was never sealed, and each copy gets a key of its own.
func snapshotBeforeTheFirstPublish(s *site) {
	e := s.ext4(orchestrator.Claim{Name: "early"})
	snap, err := s.driver.Snapshot(s.ctx, "early-snap", e.id)
	s.must(err)
	keeper := newKeeper(s.t)
	e.write(filepath.Join(e.publish(keeper, "pod-1"), "file"), 1)
	restored := s.ext4(orchestrator.Claim{Name: "early-restored", Snapshot: snap.GetSnapshotId()})
	target := restored.publish(keeper, "pod-2")
	entries, err := os.ReadDir(target)
	s.must(err)
	if len(entries) > 0 {
		s.t.Errorf("a restore of nothing has %v", entries)
	}
	a, err := e.KeyID()
	s.must(err)
	b, err := restored.KeyID()
	s.must(err)
	if a == b {
		s.t.Error("both have the same key")
	}
	e.end("pod-1")
	restored.end("pod-2")
}

func growsWhileLocked(s *site) {
	e := s.ext4(orchestrator.Claim{Name: "growing"})
	keeper := newKeeper(s.t)
	e.write(filepath.Join(e.publish(keeper, "pod-1"), "file"), 1)
	e.unpublish("pod-1")
	s.must(e.Lock())

	const larger = 256 * volume.MiB
	resp, err := s.driver.Controller.ControllerExpandVolume(s.ctx, &csi.ControllerExpandVolumeRequest{
		VolumeId: e.id, CapacityRange: &csi.CapacityRange{RequiredBytes: int64(larger)}, VolumeCapability: e.claim.Capability(),
	})
	s.must(err)
	_, err = s.driver.Node.NodeExpandVolume(s.ctx, &csi.NodeExpandVolumeRequest{
		VolumeId: e.id, VolumePath: e.Staging, StagingTargetPath: e.Staging,
		CapacityRange: &csi.CapacityRange{RequiredBytes: resp.GetCapacityBytes()}, VolumeCapability: e.claim.Capability(),
	})
	if filesystem.CanGrowOnline(volume.Ext4) {
		s.must(err)
	} else {
		s.t.Log("not tried: growth while mounted and locked, for which ext4 needs CAP_SYS_RESOURCE, which root has not on this machine")
		if status.Code(err) != codes.FailedPrecondition {
			s.t.Errorf("growth without CAP_SYS_RESOURCE: %v", err)
		}
	}
	e.unstage()
	runner := command.New()
	fault, err := filesystem.Verify(s.ctx, runner, e.image(), volume.Ext4)
	s.must(err)
	if fault != "" {
		s.t.Errorf("e2fsck on the locked volume: %s", fault)
	}
	e.stage() // checks, and grows what did not grow
	e.mustHaveKey(KeyAbsent)
	root, err := e.Root()
	s.must(err)
	defer root.Close()
	stats, err := filesystem.Measure(root)
	s.must(err)
	if stats.Total < larger*3/4 {
		s.t.Errorf("the filesystem has %s, its volume %s", stats.Total, larger)
	}
	root.Close()
	e.verify(filepath.Join(e.publish(keeper, "pod-1"), "file"), 1)
	e.end("pod-1")
	fault, err = filesystem.Verify(s.ctx, runner, e.image(), volume.Ext4)
	s.must(err)
	if fault != "" {
		s.t.Errorf("e2fsck after the growth: %s", fault)
	}
}
