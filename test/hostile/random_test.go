package hostile

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/holdfast-csi/holdfast/pkg/orchestrator"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// How long the test runs and what its requests follow from; a longer run with
// another seed is go test -args -random-time=1h -random-seed=7.
var (
	randomTime = flag.Duration("random-time", 10*time.Second, "how long TestRandomRequestsBreakNothing runs")
	randomSeed = flag.Uint64("random-seed", 20261121, "what the requests of TestRandomRequestsBreakNothing follow from")
)

// TestRandomRequestsBreakNothing changes requests at random, among them whole
// lives of volumes, so that whatever is accepted is built upon. At the end
// everything that was accepted can be taken back through the socket.
func TestRandomRequestsBreakNothing(t *testing.T) {
	s := newScene(t)
	s.start()
	m := &mutator{rng: rand.New(rand.NewPCG(*randomSeed, 0)), words: s.words()}
	bases := s.bases()
	answers, n := map[codes.Code]int{}, 0
	for end := time.Now().Add(*randomTime); time.Now().Before(end); n++ {
		req := proto.Clone(bases[m.rng.IntN(len(bases))])
		if m.rng.IntN(4) > 0 {
			m.mutate(req)
		}
		code := s.sendMutated(t, m, req)
		answers[code]++
		if !slices.Contains(legal, code) || code == codes.Unavailable && s.driver.WaitKilled(time.Millisecond) == nil {
			t.Fatalf("request %d of seed %d answered %s: %s\n%.2000s\n%s", n, *randomSeed, code, s.last, prototext.Format(req), s.driver.Log())
		}
		if n%100 == 0 {
			s.checkMountsInside()
			s.checkCanary(fmt.Sprintf("request %d of seed %d", n, *randomSeed))
		}
	}
	t.Logf("%d requests, answers: %v", n, answers)
	s.takeBack()
	s.demandClean()
	s.end()
}

// sendMutated sends a request, sometimes with bits flipped, and learns the ids in
// the answer.
func (s *scene) sendMutated(t *testing.T, m *mutator, req proto.Message) codes.Code {
	t.Helper()
	// A flipped bit could make a secret something that need not be kept.
	flip := m.rng.IntN(10) == 0
	if !flip && m.rng.IntN(4) == 0 {
		loadSecrets(req, m.rng.IntN(3))
	}
	raw, err := proto.Marshal(req)
	if err != nil {
		t.Fatalf("marshal %v: %v", req, err)
	}
	raw = bytes.ReplaceAll(raw, []byte(notText), []byte(badBytes))
	if flip {
		m.flip(raw)
	}
	method := s.wire.methodOf(req)
	answer, err := s.wire.send(fullName(method), raw)
	s.hear(err)
	if err != nil {
		return status.Code(err)
	}
	resp := newMessage(method.Output())
	if err := proto.Unmarshal(answer, resp); err != nil {
		t.Fatalf("the answer of %s cannot be decoded: %v", method.Name(), err)
	}
	const learned = 20
	for _, id := range idsIn(resp.ProtoReflect()) {
		// In place of an earlier one, so that what is new is soon used.
		m.words[len(m.words)-1-m.rng.IntN(learned)] = id
	}
	return codes.OK
}

// idsIn are the ids of the objects in an answer.
func idsIn(m protoreflect.Message) []string {
	switch r := m.Interface().(type) {
	case *csi.CreateVolumeResponse:
		return []string{r.GetVolume().GetVolumeId()}
	case *csi.CreateSnapshotResponse:
		return []string{r.GetSnapshot().GetSnapshotId()}
	}
	return nil
}

// words are all evil strings and some good ones. The last 20 are replaced by ids
// that turn up. The paths of the witnesses are not among them: who knows a path
// may unmount what is there.
func (s *scene) words() []string {
	words := slices.Sorted(maps.Values(s.evil()))
	// Half a token is none, and need not be kept.
	words = slices.DeleteFunc(words, func(w string) bool { return strings.Contains(w, canaryWord) })
	for _, w := range append(s.witnesses, s.spares...) {
		words = append(words, w.id)
	}
	words = append(words, hostileFlags()...)
	words = append(words, "ext4", "xfs", "vfat", "ro", "noatime", "pool", "default", "inodeRatio", "65536", "sectorSize", "512", "consistency", "crash",
		s.target(), s.staging(), s.target()+"-2", s.staging()+"-2", s.snapshot, "prey-1", "prey-2", "prey-3")
	for range 20 {
		words = append(words, s.spares[0].id)
	}
	return words
}

// bases are the requests to change: those of the other tests, and the life of
// volumes of every kind.
func (s *scene) bases() []proto.Message {
	bases := s.harmless()
	for _, a := range s.plausible() {
		bases = append(bases, a.req)
	}
	for i, w := range s.spares {
		claim := w.claim
		claim.Name = fmt.Sprintf("prey-%d", i+1)
		restore := orchestrator.Claim{Name: "prey-copy", Size: 64 * volume.MiB, Snapshot: s.snapshot}
		c, size := claim.Capability(), &csi.CapacityRange{RequiredBytes: int64(2 * claim.Size)}
		bases = append(bases, claim.Request(), restore.Request(),
			&csi.NodeStageVolumeRequest{VolumeId: w.id, StagingTargetPath: s.staging(), VolumeCapability: c},
			&csi.NodePublishVolumeRequest{VolumeId: w.id, StagingTargetPath: s.staging(), TargetPath: s.target(), VolumeCapability: c},
			&csi.NodePublishVolumeRequest{VolumeId: w.id, StagingTargetPath: s.staging(), TargetPath: s.target() + "-2", VolumeCapability: c, Readonly: true},
			&csi.NodeUnpublishVolumeRequest{VolumeId: w.id, TargetPath: s.target()},
			&csi.NodeUnpublishVolumeRequest{VolumeId: w.id, TargetPath: s.target() + "-2"},
			&csi.NodeUnstageVolumeRequest{VolumeId: w.id, StagingTargetPath: s.staging()},
			&csi.ControllerExpandVolumeRequest{VolumeId: w.id, CapacityRange: size},
			&csi.NodeExpandVolumeRequest{VolumeId: w.id, VolumePath: s.target(), StagingTargetPath: s.staging()},
			&csi.CreateSnapshotRequest{Name: "prey-snapshot", SourceVolumeId: w.id},
			&csi.DeleteVolumeRequest{VolumeId: w.id}, &csi.ListVolumesRequest{}, &csi.ListSnapshotsRequest{},
		)
	}
	return bases
}

// takeBack unmounts and deletes all that is not a witness's.
func (s *scene) takeBack() {
	s.t.Helper()
	ours := map[string]bool{}
	for _, w := range s.witnesses {
		ours[w.id], ours[w.target], ours[s.driver.StagingPath(w.id)] = true, true, true
	}
	volumes := s.mustCall(&csi.ListVolumesRequest{}).(*csi.ListVolumesResponse).GetEntries()
	lines, err := mounts()
	s.must(err)
	slices.Reverse(lines) // the youngest first
	for _, line := range lines {
		at := strings.Fields(line)[5]
		if !strings.HasPrefix(at, s.box.Kubelet()+"/") || ours[at] {
			continue
		}
		s.unpublishAny(volumes, at)
	}
	for _, e := range s.mustCall(&csi.ListSnapshotsRequest{}).(*csi.ListSnapshotsResponse).GetEntries() {
		s.mustCall(&csi.DeleteSnapshotRequest{SnapshotId: e.GetSnapshot().GetSnapshotId()})
	}
	for _, e := range volumes {
		if id := e.GetVolume().GetVolumeId(); !ours[id] {
			s.mustCall(&csi.NodeUnstageVolumeRequest{VolumeId: id, StagingTargetPath: s.staging()})
			s.mustCall(&csi.DeleteVolumeRequest{VolumeId: id})
		}
	}
}

// unpublishAny unpublishes a path as one of the volumes: a mount goes only with its
// own.
func (s *scene) unpublishAny(volumes []*csi.ListVolumesResponse_Entry, path string) {
	s.t.Helper()
	for _, e := range volumes {
		if _, code := s.call(&csi.NodeUnpublishVolumeRequest{VolumeId: e.GetVolume().GetVolumeId(), TargetPath: path}); code == codes.OK {
			return
		}
	}
	s.t.Fatalf("no volume can be unpublished at %s: %s", path, s.last)
}

// demandClean demands that the box has nothing but the witnesses, which may have
// grown, and directories that were made on the way to a target (mount.Root,
// CreateTarget).
func (s *scene) demandClean() {
	s.t.Helper()
	var gone, more []string
	for end := time.Now().Add(settleTime); ; time.Sleep(20 * time.Millisecond) {
		now, err := observe(s.box)
		s.must(err)
		gone, more = s.notWitnesses(missing(s.before, now)), s.notWitnesses(missing(now, s.before))
		more = slices.DeleteFunc(more, func(line string) bool {
			return strings.HasPrefix(line, s.box.Kubelet()+"/") && strings.HasSuffix(line, ": mode 40750")
		})
		if len(gone)+len(more) == 0 {
			return
		}
		if time.Now().After(end) {
			s.t.Fatalf("after all was taken back:\ngone: %s\nmore: %s", strings.Join(gone, "\n\t"), strings.Join(more, "\n\t"))
		}
	}
}

func (s *scene) notWitnesses(lines []string) []string {
	allowed := []string{"attacker"}
	for _, w := range s.witnesses {
		allowed = append(allowed, w.id+"/data", w.id+"/volume")
	}
	for _, w := range s.spares {
		allowed = append(allowed, w.id)
	}
	allowed = append(allowed, s.snapshot)
	return slices.DeleteFunc(lines, func(line string) bool {
		return slices.ContainsFunc(allowed, func(a string) bool { return strings.Contains(line, a) })
	})
}

func (s *scene) checkCanary(after string) {
	s.t.Helper()
	now, err := tree(canaryDir(s.box), exactly)
	s.must(err)
	for _, line := range now {
		if !slices.Contains(s.before, line) {
			s.t.Fatalf("after %s the canary is not as it was: %s", after, line)
		}
	}
}
