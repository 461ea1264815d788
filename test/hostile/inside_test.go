package hostile

import (
	"os"
	"slices"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

// TestNothingIsMadeOrRemovedInsideAVolume gives paths in the volume of a running
// pod, which are below kubelet's directory and lead to what the pod made.
func TestNothingIsMadeOrRemovedInsideAVolume(t *testing.T) {
	s := newScene(t)
	inside := s.witnesses[0].target
	s.must(os.Mkdir(inside+"/empty", 0o755))
	s.must(os.WriteFile(inside+"/empty-file", nil, 0o600))
	s.must(os.Symlink(canaryDir(s.box)+"/dir", inside+"/link"))
	s.start()
	before := s.content(inside)
	for _, name := range []string{"/empty", "/empty/", "/empty-file", "/data", "/new", "/empty/new", "/new/new", "/link", "/link/empty"} {
		t.Run(name, func(t *testing.T) {
			for _, req := range s.at(inside + name) {
				want := []codes.Code{codes.InvalidArgument}
				if _, ok := req.(*csi.NodeUnstageVolumeRequest); ok {
					want = append(want, codes.OK) // nothing is mounted there, and nothing is removed
				}
				if _, ok := req.(*csi.NodeUnpublishVolumeRequest); ok {
					want = append(want, codes.OK) // nothing is there
				}
				if _, code := s.call(req); !slices.Contains(want, code) {
					t.Errorf("%T answered %s: %s", req, code, s.last)
				}
				now := s.content(inside)
				if gone, made := missing(before, now), missing(now, before); len(gone)+len(made) > 0 {
					t.Fatalf("%T: gone: %v, made: %v", req, gone, made)
				}
			}
			demandUnchanged(t, s.box, s.before, "attacks inside a volume")
		})
	}
	s.end()
}

// content is what a volume has in it.
func (s *scene) content(target string) []string {
	s.t.Helper()
	lines, err := tree(target, exactly)
	s.must(err)
	return lines
}

// at are all requests that make or remove something at a path.
func (s *scene) at(path string) []proto.Message {
	spare := s.spares[1]
	requests := []proto.Message{
		&csi.NodeStageVolumeRequest{VolumeId: spare.id, StagingTargetPath: path, VolumeCapability: spare.claim.Capability()},
		&csi.NodeUnstageVolumeRequest{VolumeId: spare.id, StagingTargetPath: path},
		&csi.NodeUnstageVolumeRequest{VolumeId: "none", StagingTargetPath: path},
		&csi.NodeUnpublishVolumeRequest{VolumeId: "none", TargetPath: path},
	}
	for _, w := range s.witnesses {
		publish := s.publish(w).req.(*csi.NodePublishVolumeRequest)
		publish.TargetPath = path
		requests = append(requests, publish, &csi.NodeUnpublishVolumeRequest{VolumeId: w.id, TargetPath: path})
	}
	return requests
}
