package hostile

import (
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

// nowhere are paths at which nothing may ever be looked for, made or removed.
func (s *scene) nowhere() map[string]string {
	kubelet, traps, outside := s.box.Kubelet(), s.traps(), canaryDir(s.box)
	return map[string]string{
		"relative":                "pods/attacker/mount",
		"relative with dot":       "./mount",
		"relative with up":        "../canary/dir",
		"root":                    "/",
		"kubelet's directory":     kubelet,
		"kubelet's with slash":    kubelet + "///",
		"name that starts as it":  kubelet + "x/mount",
		"outside":                 outside + "/dir",
		"outside, empty":          outside + "/dir/empty",
		"outside, empty file":     outside + "/empty",
		"outside, new":            outside + "/new",
		"the pool":                s.box.Pools() + "/pool/volumes",
		"an image":                s.box.Pools() + "/pool/volumes/" + s.spares[0].id + "/data/disk.img",
		"the state":               s.box.State(),
		"/proc":                   "/proc/self/root" + outside + "/dir",
		"/dev":                    "/dev/null",
		"up in the middle":        kubelet + "/pods/../../canary/dir",
		"up that stays inside":    kubelet + "/pods/attacker/../attacker/mount",
		"up at the end":           kubelet + "/pods/attacker/..",
		"link to a directory":     traps + "/link-to-dir",
		"link with slash":         traps + "/link-to-dir/",
		"link to empty directory": traps + "/link-to-emptydir",
		"link to a file":          traps + "/link-to-file",
		"link to an empty file":   traps + "/link-to-empty",
		"link to a device":        traps + "/link-to-device",
		"link to nothing":         traps + "/link-to-nothing",
		"link to itself":          traps + "/link-to-itself",
		"link to inside":          traps + "/link-inside",
		"below link to nothing":   traps + "/link-to-nothing/mount",
		"below link":              traps + "/link-to-dir/mount",
		"below link, existing":    traps + "/link-to-dir/empty",
		"far below link":          traps + "/link-to-root" + outside + "/dir/empty",
		"below link to pool":      traps + "/link-to-pool/pool/volumes",
		"below link to /proc":     traps + "/link-to-proc" + outside + "/dir/empty",
		"below link up":           traps + "/link-up/canary/dir/empty",
		"below link to inside":    traps + "/link-inside/pods/attacker/mount",
		"NUL":                     kubelet + "/pods/attacker/mount\x00" + outside,
		"newline":                 kubelet + "/pods/attacker/mo\nunt",
		"escape":                  kubelet + "/pods/attacker/\x1b[2J",
		"C1 control":              kubelet + "/pods/attacker/\u0085mount",
		"not text":                kubelet + "/pods/attacker/" + notText,
		"long part":               kubelet + "/pods/attacker/" + strings.Repeat("x", 256),
		"long path":               kubelet + strings.Repeat("/pods", 900),
		"megabytes":               kubelet + "/" + strings.Repeat("x", 5<<20),
	}
}

func TestPathsThatLeadNowhereAreRefusedUntouched(t *testing.T) {
	s := newScene(t)
	s.start()
	paths := s.nowhere()
	for _, name := range slices.Sorted(maps.Keys(paths)) {
		path := paths[name]
		var attacks []attack
		try := func(what string, want []codes.Code, req proto.Message) {
			attacks = append(attacks, attack{name: what, req: req, want: want})
		}
		for i, kind := range []string{"ext4", "xfs", "block"} {
			spare, witness := s.spares[i], s.witnesses[i]
			try("stage "+kind, refused, &csi.NodeStageVolumeRequest{VolumeId: spare.id, StagingTargetPath: path, VolumeCapability: spare.claim.Capability()})
			publish := s.publish(witness).req.(*csi.NodePublishVolumeRequest)
			publish.TargetPath = path
			try("publish "+kind, refused, publish)
			publish = s.publish(witness).req.(*csi.NodePublishVolumeRequest)
			publish.StagingTargetPath = path
			try("publish from there "+kind, refused, publish)
			publish = s.publish(witness).req.(*csi.NodePublishVolumeRequest)
			publish.TargetPath, publish.Readonly = path, true
			try("publish read-only "+kind, refused, publish)
			try("unpublish "+kind, refused, &csi.NodeUnpublishVolumeRequest{VolumeId: witness.id, TargetPath: path})
			try("unstage "+kind, refused, &csi.NodeUnstageVolumeRequest{VolumeId: spare.id, StagingTargetPath: path})
			try("unstage in use "+kind, refused, &csi.NodeUnstageVolumeRequest{VolumeId: witness.id, StagingTargetPath: path})
			// CSI wants NOT_FOUND for a volume that is not at the path.
			either := []codes.Code{codes.InvalidArgument, codes.NotFound}
			try("stats "+kind, either, &csi.NodeGetVolumeStatsRequest{VolumeId: witness.id, VolumePath: path})
			if !witness.claim.Block { // the path of a block volume may be a device node
				try("expand "+kind, either, &csi.NodeExpandVolumeRequest{VolumeId: witness.id, VolumePath: path})
			}
		}
		try("unpublish nothing", refused, &csi.NodeUnpublishVolumeRequest{VolumeId: "none", TargetPath: path})
		try("unstage nothing", refused, &csi.NodeUnstageVolumeRequest{VolumeId: "none", StagingTargetPath: path})
		t.Run(name, func(t *testing.T) { s.runAll(t, attacks) })
		if t.Failed() {
			break
		}
	}
	s.end()
}

// runAll makes attacks none of which may change anything, and looks at the box
// once.
func (s *scene) runAll(t *testing.T, attacks []attack) {
	t.Helper()
	for _, a := range attacks {
		if _, code := s.call(a.req); !slices.Contains(a.want, code) {
			t.Errorf("%s: answered %s, want %v: %s", a.name, code, a.want, s.last)
		}
	}
	demandUnchanged(t, s.box, s.before, t.Name())
}

func TestWhatLiesAtATargetIsNeitherUsedNorRemoved(t *testing.T) {
	s := newScene(t)
	other := s.box.Kubelet() + "/pods/other"
	s.must(os.Mkdir(other, 0o750))
	s.must(unix.Mount("other", other, "tmpfs", 0, "size=1m"))
	s.start()
	precondition := []codes.Code{codes.FailedPrecondition}
	stage := func(w *witness, path string) proto.Message {
		return &csi.NodeStageVolumeRequest{VolumeId: w.id, StagingTargetPath: path, VolumeCapability: w.claim.Capability()}
	}
	publish := func(w *witness, path string) proto.Message {
		r := s.publish(w).req.(*csi.NodePublishVolumeRequest)
		r.TargetPath = path
		return r
	}
	unpublish := func(path string) proto.Message {
		return &csi.NodeUnpublishVolumeRequest{VolumeId: s.witnesses[0].id, TargetPath: path}
	}
	traps := s.traps()
	s.run(t, []attack{
		{name: "stage on a file", req: stage(s.spares[0], traps+"/file"), want: precondition},
		{name: "stage on a pipe", req: stage(s.spares[0], traps+"/fifo"), want: precondition},
		{name: "stage below a file", req: stage(s.spares[0], traps+"/file/mount"), want: precondition},
		{name: "stage where no parent is", req: stage(s.spares[0], traps+"/a/b/c/mount"), want: precondition},
		{name: "stage on another volume's staging", req: stage(s.spares[0], s.driver.StagingPath(s.witnesses[1].id)), want: precondition},
		{name: "stage on another volume's target", req: stage(s.spares[0], s.witnesses[1].target), want: precondition},
		{name: "publish on a file", req: publish(s.witnesses[0], traps+"/file"), want: precondition},
		{name: "publish on a pipe", req: publish(s.witnesses[0], traps+"/fifo"), want: precondition},
		{name: "publish below a file", req: publish(s.witnesses[0], traps+"/file/mount"), want: precondition},
		{name: "publish where no parent is", req: publish(s.witnesses[0], traps+"/a/b/c/mount"), want: precondition},
		{name: "publish a device on a directory", req: publish(s.witnesses[2], traps+"/full"), want: precondition},
		{name: "publish on another volume", req: publish(s.witnesses[0], s.witnesses[1].target), want: []codes.Code{codes.AlreadyExists}},
		{name: "publish on another device", req: publish(s.witnesses[0], s.witnesses[2].target), want: []codes.Code{codes.AlreadyExists}},
		{name: "publish on its own staging", req: publish(s.witnesses[0], s.driver.StagingPath(s.witnesses[0].id)), want: refused},
		{name: "unpublish a file", req: unpublish(traps + "/file"), want: precondition},
		{name: "unpublish a full directory", req: unpublish(traps + "/full"), want: precondition},
		{name: "unpublish a pipe", req: unpublish(traps + "/fifo"), want: precondition},
		{name: "unpublish below a file", req: unpublish(traps + "/file/mount"), want: []codes.Code{codes.OK, codes.FailedPrecondition}},
		{name: "unpublish what is not there", req: unpublish(traps + "/none/mount"), want: fine},
		{name: "unstage what is not there", req: &csi.NodeUnstageVolumeRequest{VolumeId: s.spares[0].id, StagingTargetPath: traps + "/none"}, want: fine},
		{name: "unpublish another's volume", req: unpublish(s.witnesses[1].target), want: precondition},
		{name: "unpublish another's device", req: unpublish(s.witnesses[2].target), want: precondition},
		{name: "unpublish another driver's volume", req: unpublish(other), want: precondition},
		{name: "unpublish by no id of ours", req: &csi.NodeUnpublishVolumeRequest{VolumeId: "none", TargetPath: s.witnesses[0].target}, want: precondition},
		{name: "unstage another's volume", req: &csi.NodeUnstageVolumeRequest{VolumeId: s.spares[0].id, StagingTargetPath: s.driver.StagingPath(s.witnesses[1].id)}, want: precondition},
		{name: "unstage another driver's volume", req: &csi.NodeUnstageVolumeRequest{VolumeId: s.spares[0].id, StagingTargetPath: other}, want: precondition},
		{name: "unstage by no id of ours", req: &csi.NodeUnstageVolumeRequest{VolumeId: "none", StagingTargetPath: s.witnesses[0].target}, want: precondition},
		{name: "unstage while published", req: &csi.NodeUnstageVolumeRequest{VolumeId: s.witnesses[0].id, StagingTargetPath: s.driver.StagingPath(s.witnesses[0].id)}, want: precondition},
	})
	s.end()
}
