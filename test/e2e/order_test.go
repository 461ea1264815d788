package e2e

import "testing"

// family is a source, its snapshot, and what was restored from that, each with a
// pod that shows its content.
type family struct {
	s                *scene
	source, restored *pod
}

const (
	sourceSeed   = 2 // what the source has, after the snapshot
	snapshotSeed = 1 // what it had, and the restored volume has
)

func newFamily(s *scene) *family {
	s.t.Helper()
	f := &family{s: s}
	f.source = s.runClaim(newClaim("source", classExt4, small))
	f.source.write("/data/file", snapshotSeed)
	s.snapshot("snapshot", "source", classSnapshot)
	f.source.write("/data/file", sourceSeed)
	f.restored = s.runClaim(restoreOf("snapshot", newClaim("restored", classExt4, small)))
	f.restored.verify("/data/file", snapshotSeed)
	return f
}

func (f *family) deleteSource() {
	f.s.t.Helper()
	f.source.verify("/data/file", sourceSeed)
	f.source.delete()
	f.s.deleteClaim("source")
}

func (f *family) deleteRestored() {
	f.s.t.Helper()
	f.restored.verify("/data/file", snapshotSeed)
	f.restored.delete()
	f.s.deleteClaim("restored")
}

func (f *family) deleteSnapshot() {
	f.s.t.Helper()
	// It is still whole.
	again := f.s.runClaim(restoreOf("snapshot", newClaim("again", classExt4, small)))
	again.verify("/data/file", snapshotSeed)
	again.delete()
	f.s.deleteClaim("again")
	f.s.deleteSnapshot("snapshot")
}

func TestAFamilyIsDeletedInEveryOrder(t *testing.T) {
	t.Parallel()
	source, snapshot, restored := (*family).deleteSource, (*family).deleteSnapshot, (*family).deleteRestored
	for name, order := range map[string][]func(*family){
		"source, snapshot, restored": {source, snapshot, restored},
		"source, restored, snapshot": {source, restored, snapshot},
		"snapshot, source, restored": {snapshot, source, restored},
		"snapshot, restored, source": {snapshot, restored, source},
		"restored, source, snapshot": {restored, source, snapshot},
		"restored, snapshot, source": {restored, snapshot, source},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFamily(newScene(t))
			for _, remove := range order {
				remove(f)
			}
		})
	}
}
