package controller

import (
	"context"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/holdfast-csi/holdfast/pkg/topology"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func TestCreateAnswersSizeAndTopologyOfThePool(t *testing.T) {
	b := newBench(t)
	got := b.mustCreate(t, request("pvc-1", withSize(64<<20+1, 0)))
	want := &csi.Volume{
		VolumeId:           string(volume.NewID(volume.KindVolume, fastID, "pvc-1")),
		CapacityBytes:      64<<20 + 4096,
		AccessibleTopology: []*csi.Topology{{Segments: map[string]string{"topology.csi.holdfast.dev/pool-" + string(fastID): "yes"}}},
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("volume (-want +got):\n%s", diff)
	}
}

func TestCreateTwiceAnswersTheSame(t *testing.T) {
	b := newBench(t)
	first := b.mustCreate(t, request("pvc-1"))
	second := b.mustCreate(t, request("pvc-1"))
	if diff := cmp.Diff(first, second, protocmp.Transform()); diff != "" {
		t.Errorf("second answer differs:\n%s", diff)
	}
}

func TestCreateAgainWithOtherArgumentsIsRefused(t *testing.T) {
	for name, edit := range map[string]func(*csi.CreateVolumeRequest){
		"size":        withSize(128<<20, 0),
		"limit":       withSize(16<<20, 32<<20),
		"filesystem":  withCaps(mountCap("xfs", rwo)),
		"mode":        withCaps(blockCap(rwo)),
		"inode ratio": withParameters(map[string]string{"inodeRatio": "4096"}),
		"pool":        withParameters(map[string]string{"pool": "hdd"}),
		"topology": func(r *csi.CreateVolumeRequest) {
			r.AccessibilityRequirements = &csi.TopologyRequirement{Requisite: []*csi.Topology{segment(slowID)}}
		},
		"source": fromVolume(none(volume.KindVolume)),
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.mustCreate(t, request("pvc-1"))
			_, err := b.CreateVolume(t.Context(), request("pvc-1", edit))
			wantErr(t, err, volume.ErrExists)
		})
	}
}

func TestCreateIgnoresWhatTheSidecarsAdd(t *testing.T) {
	b := newBench(t)
	first := b.mustCreate(t, request("pvc-1", withParameters(map[string]string{
		"csi.storage.k8s.io/pvc/name": "claim", "csi.storage.k8s.io/pv/name": "pvc-1"})))
	second := b.mustCreate(t, request("pvc-1", withParameters(map[string]string{"csi.storage.k8s.io/pvc/name": "other"})))
	if first.GetVolumeId() != second.GetVolumeId() {
		t.Error("the sidecars' keys made another volume")
	}
}

func TestCreateRefuses(t *testing.T) {
	const (
		multi  = csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER
		single = csi.VolumeCapability_AccessMode_MULTI_NODE_SINGLE_WRITER
	)
	group := mountCap("", rwo)
	group.GetMount().VolumeMountGroup = "1000"
	for name, tc := range map[string]struct {
		edit func(*csi.CreateVolumeRequest)
		want error
		text string
	}{
		"no name":                {func(r *csi.CreateVolumeRequest) { r.Name = "" }, volume.ErrInvalid, "name"},
		"no capabilities":        {withCaps(), volume.ErrInvalid, "capabilities"},
		"an empty capability":    {withCaps(nil), volume.ErrInvalid, "missing"},
		"no access type":         {withCaps(&csi.VolumeCapability{AccessMode: &csi.VolumeCapability_AccessMode{Mode: rwo}}), volume.ErrInvalid, "mount or block"},
		"no access mode":         {withCaps(mountCap("", 0)), volume.ErrInvalid, "access mode"},
		"an unknown access mode": {withCaps(mountCap("", 99)), volume.ErrInvalid, "access mode 99"},
		"many writers":           {withCaps(mountCap("", multi)), volume.ErrInvalid, "one node"},
		"one of many writers":    {withCaps(mountCap("", rwo), mountCap("", single)), volume.ErrInvalid, "one node"},
		"mount and block":        {withCaps(mountCap("", rwo), blockCap(rwo)), volume.ErrInvalid, "both mount and block"},
		"two filesystems":        {withCaps(mountCap("ext4", rwo), mountCap("xfs", rwo)), volume.ErrInvalid, "two filesystems"},
		"another filesystem":     {withCaps(mountCap("btrfs", rwo)), volume.ErrInvalid, "supported are ext4 and xfs"},
		"a hostile filesystem":   {withCaps(mountCap("../../ext4", rwo)), volume.ErrInvalid, "supported are"},
		"a loop mount flag":      {withCaps(mountCap("", rwo, "loop=/dev/sda")), volume.ErrInvalid, "loop"},
		"a mount group":          {withCaps(group), volume.ErrInvalid, "fsGroup"},
		"an unknown parameter":   {withParameters(map[string]string{"Pool": "hdd"}), volume.ErrInvalid, "pool, inodeRatio, sectorSize"},
		"an unknown pool":        {withParameters(map[string]string{"pool": "ssd"}), volume.ErrInvalid, "ssd"},
		"an odd sector size":     {withParameters(map[string]string{"sectorSize": "1024"}), volume.ErrInvalid, "512, 4096"},
		"512 in a filesystem":    {withParameters(map[string]string{"sectorSize": "512"}), volume.ErrInvalid, "block"},
		"inodes in xfs": {func(r *csi.CreateVolumeRequest) {
			withCaps(mountCap("xfs", rwo))(r)
			withParameters(map[string]string{"inodeRatio": "4096"})(r)
		}, volume.ErrInvalid, "ext4"},
		"mutable parameters":     {func(r *csi.CreateVolumeRequest) { r.MutableParameters = map[string]string{"iops": "1"} }, volume.ErrInvalid, "VolumeAttributesClass"},
		"a negative size":        {withSize(-1, 0), volume.ErrInvalid, "negative"},
		"a limit below the size": {withSize(volume.GiB, volume.MiB), volume.ErrInvalid, "limit"},
		"a limit below what xfs needs": {func(r *csi.CreateVolumeRequest) {
			withCaps(mountCap("xfs", rwo))(r)
			withSize(64<<20, 64<<20)(r)
		}, volume.ErrOutOfRange, "300 MiB"},
		"more than there is":   {withSize(volume.TiB, 0), volume.ErrNoSpace, ""},
		"an empty source":      {func(r *csi.CreateVolumeRequest) { r.VolumeContentSource = &csi.VolumeContentSource{} }, volume.ErrInvalid, "source"},
		"no snapshot id":       {fromSnapshot(""), volume.ErrInvalid, "source snapshot id"},
		"a malformed snapshot": {fromSnapshot("../etc"), volume.ErrNotFound, ""},
		"a volume as snapshot": {fromSnapshot(none(volume.KindVolume)), volume.ErrNotFound, ""},
		"an unknown snapshot":  {fromSnapshot(none(volume.KindSnapshot)), volume.ErrNotFound, ""},
		"an unknown volume":    {fromVolume(none(volume.KindVolume)), volume.ErrNotFound, ""},
		"a topology not here":  {inTopology(map[string]string{topology.NodeKey: "node-2"}), volume.ErrNoSpace, "node-1"},
		"a foreign zone":       {inTopology(map[string]string{"topology.kubernetes.io/zone": "a"}), volume.ErrNoSpace, "WaitForFirstConsumer"},
		"a pool not in topology": {func(r *csi.CreateVolumeRequest) {
			withParameters(map[string]string{"pool": "hdd"})(r)
			inTopology(segment(fastID).GetSegments())(r)
		}, volume.ErrNoSpace, ""},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			resp, err := b.CreateVolume(t.Context(), request("pvc-1", tc.edit))
			wantErr(t, err, tc.want)
			if resp != nil {
				t.Error("an answer beside the error")
			}
			if err != nil && !strings.Contains(err.Error(), tc.text) {
				t.Errorf("error %q does not mention %q", err, tc.text)
			}
			if all, _ := b.memory.Volumes(context.Background()); len(all) > 0 {
				t.Errorf("left a volume behind: %v", all)
			}
		})
	}
}

func TestCreateAcceptsEveryAccessModeOfOneNode(t *testing.T) {
	b := newBench(t)
	for _, mode := range []csi.VolumeCapability_AccessMode_Mode{
		csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER,
		csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER,
		csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER,
		csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY,
		csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY,
	} {
		b.mustCreate(t, request("mount-"+mode.String(), withCaps(mountCap("ext4", mode))))
		b.mustCreate(t, request("block-"+mode.String(), withCaps(blockCap(mode))))
	}
}

func TestCreateRoundsUpToWhatTheFilesystemNeeds(t *testing.T) {
	b := newBench(t)
	if got := b.mustCreate(t, request("x", withCaps(mountCap("xfs", rwo)))).GetCapacityBytes(); got != 300<<20 {
		t.Errorf("xfs of 64 MiB got %d bytes, want 300 MiB", got)
	}
	if got := b.mustCreate(t, request("d", withSize(0, 0))).GetCapacityBytes(); got != 1<<30 {
		t.Errorf("a volume of no size got %d bytes, want 1 GiB", got)
	}
}

func TestCreateFromASourceInheritsItsFormat(t *testing.T) {
	b := newBench(t)
	src := b.mustCreate(t, request("src", withCaps(mountCap("xfs", rwo)), withSize(400<<20, 0)))
	snap := b.mustSnapshot(t, "snap", src.GetVolumeId())
	restored := b.mustCreate(t, request("restored", fromSnapshot(snap.GetSnapshotId()), withSize(500<<20, 0)))
	if got := restored.GetContentSource().GetSnapshot().GetSnapshotId(); got != snap.GetSnapshotId() {
		t.Errorf("content source is %q, want %q", got, snap.GetSnapshotId())
	}
	v, err := b.memory.Volume(t.Context(), volume.ID(restored.GetVolumeId()))
	if err != nil || v.Format.FSType != volume.XFS || v.Size != 500*volume.MiB {
		t.Errorf("restored volume is %+v, %v; want xfs of 500 MiB", v, err)
	}
	clone := b.mustCreate(t, request("clone", fromVolume(src.GetVolumeId()), withCaps(mountCap("xfs", rwo)), withSize(400<<20, 0)))
	if got := clone.GetContentSource().GetVolume().GetVolumeId(); got != src.GetVolumeId() {
		t.Errorf("content source is %q, want %q", got, src.GetVolumeId())
	}
	_, err = b.CreateVolume(t.Context(), request("other", fromVolume(src.GetVolumeId()), withCaps(mountCap("ext4", rwo))))
	wantErr(t, err, volume.ErrInvalid)
	_, err = b.CreateVolume(t.Context(), request("small", fromVolume(src.GetVolumeId()), withSize(0, 350<<20)))
	wantErr(t, err, volume.ErrOutOfRange)
}

func TestCreateMakesBlockVolumesWithTheSectorSizeAskedFor(t *testing.T) {
	b := newBench(t)
	got := b.mustCreate(t, request("b", withCaps(blockCap(rwo)), withParameters(map[string]string{"sectorSize": "512", "pool": "hdd"})))
	v, err := b.memory.Volume(t.Context(), volume.ID(got.GetVolumeId()))
	if err != nil || v.Format.SectorSize != 512 || v.ID.Pool() != slowID {
		t.Errorf("volume is %+v, %v; want 512-byte sectors in the pool hdd", v, err)
	}
}

func TestCreateInAnUnavailablePoolIsUnavailable(t *testing.T) {
	b := newBench(t)
	b.memory.Unavailable("hdd")
	_, err := b.CreateVolume(t.Context(), request("v", withParameters(map[string]string{"pool": "hdd"})))
	wantErr(t, err, volume.ErrUnavailable)
	b.mustCreate(t, request("v"))
}

func segment(id volume.PoolID) *csi.Topology {
	return &csi.Topology{Segments: topology.OfPool(id)}
}

func inTopology(segments map[string]string) func(*csi.CreateVolumeRequest) {
	return func(r *csi.CreateVolumeRequest) {
		r.AccessibilityRequirements = &csi.TopologyRequirement{Requisite: []*csi.Topology{{Segments: segments}}}
	}
}

func TestAllowedPoolsPutThePreferredFirst(t *testing.T) {
	b := newBench(t)
	here := &csi.Topology{Segments: topology.OfNode(node, b.memory.Pools())}
	away := &csi.Topology{Segments: map[string]string{topology.NodeKey: "node-2"}}
	for name, tc := range map[string]struct {
		req  *csi.TopologyRequirement
		want []volume.PoolID
	}{
		"nothing asked":                  {nil, nil},
		"an empty requirement":           {&csi.TopologyRequirement{}, nil},
		"the whole node":                 {&csi.TopologyRequirement{Requisite: []*csi.Topology{here}}, []volume.PoolID{fastID, slowID}},
		"the other node first":           {&csi.TopologyRequirement{Requisite: []*csi.Topology{away, here}, Preferred: []*csi.Topology{away, here}}, []volume.PoolID{fastID, slowID}},
		"one preferred of two":           {&csi.TopologyRequirement{Requisite: []*csi.Topology{segment(fastID), segment(slowID)}, Preferred: []*csi.Topology{segment(slowID)}}, []volume.PoolID{slowID, fastID}},
		"only preferred":                 {&csi.TopologyRequirement{Preferred: []*csi.Topology{segment(slowID)}}, []volume.PoolID{slowID, fastID}},
		"preferred outside of requisite": {&csi.TopologyRequirement{Requisite: []*csi.Topology{segment(fastID)}, Preferred: []*csi.Topology{segment(slowID)}}, []volume.PoolID{fastID}},
	} {
		got, err := b.allowed(tc.req)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
