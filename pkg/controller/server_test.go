package controller

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-csi/holdfast/pkg/backend"
	"github.com/holdfast-csi/holdfast/pkg/backend/backendtest"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

const (
	fastID = volume.PoolID("00000000000000aa")
	slowID = volume.PoolID("00000000000000bb")
	node   = "node-1"
)

// bench is a Server over the reference engine with two pools, and the warnings
// that it gave.
type bench struct {
	*Server
	memory   *backendtest.Memory
	warnings []string
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{memory: backendtest.NewMemory(backendtest.MemoryConfig{Pools: []backendtest.MemoryPool{
		{Name: "default", ID: fastID, Size: 100 * volume.GiB},
		{Name: "hdd", ID: slowID, Size: 10 * volume.GiB},
	}})}
	b.Server = New(Config{Backend: b.memory, NodeID: node, Warn: func(_ context.Context, msg string, _ ...any) {
		b.warnings = append(b.warnings, msg)
	}})
	return b
}

func mountCap(fsType string, mode csi.VolumeCapability_AccessMode_Mode, flags ...string) *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: fsType, MountFlags: flags}},
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: mode},
	}
}

func blockCap(mode csi.VolumeCapability_AccessMode_Mode) *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessType: &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}},
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: mode},
	}
}

const rwo = csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER

// request asks for a small ext4 volume, changed by each edit.
func request(name string, edits ...func(*csi.CreateVolumeRequest)) *csi.CreateVolumeRequest {
	req := &csi.CreateVolumeRequest{
		Name:               name,
		CapacityRange:      &csi.CapacityRange{RequiredBytes: 64 << 20},
		VolumeCapabilities: []*csi.VolumeCapability{mountCap("", rwo)},
	}
	for _, edit := range edits {
		edit(req)
	}
	return req
}

func withCaps(caps ...*csi.VolumeCapability) func(*csi.CreateVolumeRequest) {
	return func(r *csi.CreateVolumeRequest) { r.VolumeCapabilities = caps }
}

func withParameters(p map[string]string) func(*csi.CreateVolumeRequest) {
	return func(r *csi.CreateVolumeRequest) { r.Parameters = p }
}

func withSize(required, limit volume.Bytes) func(*csi.CreateVolumeRequest) {
	return func(r *csi.CreateVolumeRequest) {
		r.CapacityRange = &csi.CapacityRange{RequiredBytes: int64(required), LimitBytes: int64(limit)}
	}
}

func fromSnapshot(id string) func(*csi.CreateVolumeRequest) {
	return func(r *csi.CreateVolumeRequest) {
		r.VolumeContentSource = &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
			Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: id}}}
	}
}

func fromVolume(id string) func(*csi.CreateVolumeRequest) {
	return func(r *csi.CreateVolumeRequest) {
		r.VolumeContentSource = &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{
			Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: id}}}
	}
}

func (b *bench) mustCreate(t *testing.T, req *csi.CreateVolumeRequest) *csi.Volume {
	t.Helper()
	resp, err := b.CreateVolume(t.Context(), req)
	if err != nil {
		t.Fatalf("CreateVolume %s: %v", req.GetName(), err)
	}
	return resp.GetVolume()
}

func (b *bench) mustSnapshot(t *testing.T, name, source string) *csi.Snapshot {
	t.Helper()
	resp, err := b.CreateSnapshot(t.Context(), &csi.CreateSnapshotRequest{Name: name, SourceVolumeId: source})
	if err != nil {
		t.Fatalf("CreateSnapshot %s: %v", name, err)
	}
	return resp.GetSnapshot()
}

func wantErr(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("got error %v, want %v", err, want)
	}
}

// none is an id that this driver could have made and did not.
func none(kind volume.Kind) string { return string(volume.NewID(kind, fastID, "never made")) }

func capabilityNames(t *testing.T, s *Server) []string {
	t.Helper()
	resp, err := s.ControllerGetCapabilities(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, c := range resp.GetCapabilities() {
		names = append(names, c.GetRpc().GetType().String())
	}
	slices.Sort(names)
	return names
}

func TestCapabilitiesFollowTheEngine(t *testing.T) {
	all := capabilityNames(t, newBench(t).Server)
	if diff := cmp.Diff([]string{
		"CLONE_VOLUME", "CREATE_DELETE_SNAPSHOT", "CREATE_DELETE_VOLUME", "EXPAND_VOLUME", "GET_CAPACITY",
		"GET_SNAPSHOT", "GET_VOLUME", "GET_VOLUME_HEALTH", "LIST_SNAPSHOTS", "LIST_VOLUMES", "LIST_VOLUME_HEALTH", "SINGLE_NODE_MULTI_WRITER",
	}, all); diff != "" {
		t.Errorf("capabilities of a full engine (-want +got):\n%s", diff)
	}
	bare := New(Config{Backend: backendtest.NewMemory(backendtest.MemoryConfig{
		Pools:        []backendtest.MemoryPool{{Name: "default", Size: volume.GiB}},
		Capabilities: &backend.Capabilities{},
	})})
	if diff := cmp.Diff([]string{
		"CREATE_DELETE_VOLUME", "GET_CAPACITY", "GET_VOLUME", "GET_VOLUME_HEALTH", "LIST_VOLUMES", "LIST_VOLUME_HEALTH", "SINGLE_NODE_MULTI_WRITER",
	}, capabilityNames(t, bare)); diff != "" {
		t.Errorf("capabilities of a bare engine (-want +got):\n%s", diff)
	}
}

func TestAnEngineWithoutSnapshotsHasNoSnapshotCalls(t *testing.T) {
	s := New(Config{Backend: backendtest.NewMemory(backendtest.MemoryConfig{
		Pools:        []backendtest.MemoryPool{{Name: "default", Size: volume.GiB}},
		Capabilities: &backend.Capabilities{},
	})})
	ctx := t.Context()
	for name, call := range map[string]func() error{
		"CreateSnapshot": func() error { _, err := s.CreateSnapshot(ctx, nil); return err },
		"DeleteSnapshot": func() error { _, err := s.DeleteSnapshot(ctx, nil); return err },
		"GetSnapshot":    func() error { _, err := s.GetSnapshot(ctx, nil); return err },
		"ListSnapshots":  func() error { _, err := s.ListSnapshots(ctx, nil); return err },
		"Expand":         func() error { _, err := s.ControllerExpandVolume(ctx, nil); return err },
		"Publish":        func() error { _, err := s.ControllerPublishVolume(ctx, nil); return err },
		"Modify":         func() error { _, err := s.ControllerModifyVolume(ctx, nil); return err },
	} {
		if err := call(); status.Code(err) != codes.Unimplemented {
			t.Errorf("%s: got %v, want UNIMPLEMENTED", name, err)
		}
	}
	_, err := s.CreateVolume(ctx, request("v", fromSnapshot(none(volume.KindSnapshot))))
	wantErr(t, err, volume.ErrInvalid)
	_, err = s.CreateVolume(ctx, request("v", fromVolume(none(volume.KindVolume))))
	wantErr(t, err, volume.ErrInvalid)
}
