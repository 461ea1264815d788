package lifecycle

import (
	"os"
	"slices"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/pkg/orchestrator"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/pkg/workload"
	"github.com/holdfast-csi/holdfast/test/harness"
)

func TestContent(t *testing.T) { harness.OnEachFilesystem(t, testContent) }

func testContent(t *testing.T, flag string) {
	s := newSite(t, 10*volume.GiB, flag)
	s.run("a restored snapshot is the source at that instant", restoredIsTheInstant)
	s.run("a snapshot of a block volume has what was closed and not synced", blockHasWhatWasNotSynced)
	s.run("clones are independent both ways", clonesAreIndependent)
	s.run("a snapshot outlives its source and its siblings", snapshotOutlives)
	s.run("a larger copy shows its size at publish", largerCopyShowsItsSize)
	s.run("a chain of restores keeps each generation", chainKeepsGenerations)
	s.run("a crash-consistent snapshot takes no freeze and mounts", crashConsistent)
}

func restoredIsTheInstant(s *site) {
	for _, claim := range []orchestrator.Claim{ext4("instant-ext4"), xfs("instant-xfs")} {
		source := s.launch(claim)
		writer := source.journal()
		for i := range 3 {
			before, err := writer.Acked()
			s.must(err)
			snap := source.snapshot(numbered(claim.Name, i))
			after, err := writer.Acked()
			s.must(err)
			s.mustGoOn(writer)
			restored := s.launch(source.copyOf(numbered(claim.Name+"-restored", i), snap))
			n, err := workload.VerifyJournal(restored.path("journal"))
			s.must(err)
			// One record may be written and its acknowledgement not counted yet.
			if n < before || n > after+1 {
				s.t.Errorf("%s: %d records were acknowledged before the snapshot and %d after it, the restored volume has %d", claim.Name, before, after, n)
			}
			restored.retire()
		}
		s.t.Logf("%s: longest stall of the writer: %s", claim.Name, writer.Stall())
	}
}

func blockHasWhatWasNotSynced(s *site) {
	source := s.launch(block("unsynced"))
	// Closing the last descriptor would write everything out.
	hold, err := os.Open(source.target)
	s.must(err)
	defer hold.Close()
	s.must(workload.Write(source.target, 1, dataSize, false))
	snap := source.snapshot("unsynced")
	s.must(workload.Write(source.target, 2, dataSize, false))
	clone := s.launch(source.cloneOf("unsynced-clone"))
	s.must(workload.Write(source.target, 3, dataSize, false))
	s.launch(source.copyOf("unsynced-restored", snap)).verify("", 1)
	clone.verify("", 2)
	source.verify("", 3)
}

func clonesAreIndependent(s *site) {
	for _, claim := range []orchestrator.Claim{ext4("both-ext4"), xfs("both-xfs"), block("both-block")} {
		source := s.launch(claim)
		source.write("data", 1)
		// An xfs clone has the UUID of its source, and both are mounted here.
		clone := s.launch(source.cloneOf(claim.Name + "-clone"))
		second := s.launch(clone.cloneOf(claim.Name + "-clone-of-clone"))
		source.verify("data", 1)
		clone.write("data", 2)
		source.verify("data", 1)
		source.write("data", 3)
		clone.verify("data", 2)
		second.verify("data", 1)
		source.retire()
		clone.verify("data", 2)
		clone.stop()
		clone.start() // from the disk, not from the cache
		clone.verify("data", 2)
	}
}

func snapshotOutlives(s *site) {
	for _, claim := range []orchestrator.Claim{xfs("outlive-xfs"), block("outlive-block")} {
		source := s.launch(claim)
		source.write("data", 1)
		snap := source.snapshot(claim.Name)
		source.write("data", 2)
		later := source.snapshot(claim.Name + "-later")
		first := s.launch(source.copyOf(claim.Name+"-first", snap))
		second := s.launch(source.copyOf(claim.Name+"-second", snap))
		first.write("data", 3)
		source.retire()
		s.must(s.driver.DeleteSnapshot(s.ctx, later))
		first.retire()
		third := s.launch(source.copyOf(claim.Name+"-third", snap))
		third.verify("data", 1)
		s.must(s.driver.DeleteSnapshot(s.ctx, snap))
		second.verify("data", 1)
		third.stop()
		third.start()
		third.verify("data", 1)
	}
}

func largerCopyShowsItsSize(s *site) {
	for _, tc := range []struct {
		claim  orchestrator.Claim
		larger volume.Bytes
	}{
		{ext4("larger-ext4"), 300 * volume.MiB},
		{xfs("larger-xfs"), 700 * volume.MiB},
		{block("larger-block"), 100 * volume.MiB},
	} {
		source := s.launch(tc.claim)
		source.write("data", 1)
		source.mustSee(tc.claim.Size)
		restored := source.copyOf(tc.claim.Name+"-restored", source.snapshot(tc.claim.Name))
		clone := source.cloneOf(tc.claim.Name + "-clone")
		for _, claim := range []orchestrator.Claim{restored, clone} {
			claim.Size = tc.larger
			p := s.launch(claim)
			p.mustSee(tc.larger)
			p.verify("data", 1)
			p.write("more", 2)
			p.retire()
		}
		source.mustSee(tc.claim.Size)
	}
}

func chainKeepsGenerations(s *site) {
	const generations = 4
	p := s.launch(ext4("chain"))
	var snaps []string
	for i := range generations {
		p.write(numbered("data", i), uint64(i))
		snaps = append(snaps, p.snapshot(numbered("chain", i)))
		next := s.launch(p.copyOf(numbered("chain", i), snaps[i]))
		p.retire()
		p = next
	}
	for i, snap := range snaps {
		restored := s.launch(p.copyOf(numbered("again", i), snap))
		for j := range generations {
			if j <= i {
				restored.verify(numbered("data", j), uint64(j))
			} else if _, err := os.Stat(restored.path(numbered("data", j))); !os.IsNotExist(err) {
				s.t.Errorf("generation %d has the data of generation %d: %v", i, j, err)
			}
		}
	}
}

func crashConsistent(s *site) {
	met := len(s.driver.Steps())
	for _, claim := range []orchestrator.Claim{ext4("crash-ext4"), xfs("crash-xfs")} {
		source := s.launch(claim)
		writer := source.journal()
		before, err := writer.Acked()
		s.must(err)
		resp, err := s.driver.Controller.CreateSnapshot(s.ctx, &csi.CreateSnapshotRequest{
			Name: claim.Name, SourceVolumeId: source.id, Parameters: map[string]string{"consistency": "crash"},
		})
		s.must(err)
		s.mustGoOn(writer)
		restored := s.launch(source.copyOf(claim.Name+"-restored", resp.GetSnapshot().GetSnapshotId()))
		n, err := workload.VerifyJournal(restored.path("journal"))
		s.must(err)
		if n < before {
			s.t.Errorf("%s: %d records were durable before the snapshot, the restored volume has %d", claim.Name, before, n)
		}
	}
	if slices.Contains(s.driver.Steps()[met:], "freeze/frozen") {
		s.t.Error("a filesystem was frozen")
	}
}
