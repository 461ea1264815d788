package node

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-csi/holdfast/pkg/backend"
	"github.com/holdfast-csi/holdfast/pkg/backend/backendtest"
	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// plain is a node without root's rights: what it refuses before it touches
// anything.
func plain(t *testing.T) *Server {
	t.Helper()
	root, err := mount.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	memory := backendtest.NewMemory(backendtest.MemoryConfig{Pools: []backendtest.MemoryPool{
		{Name: "default", ID: testPool, Size: volume.GiB}, {Name: "hdd", ID: "00000000000000bb", Size: volume.GiB},
	}})
	return New(Config{NodeID: "node-1", Backend: memory, Kubelet: root})
}

func TestInfoNamesTheNodeAndItsPools(t *testing.T) {
	resp, err := plain(t).NodeGetInfo(t.Context(), &csi.NodeGetInfoRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if resp.GetNodeId() != "node-1" || resp.GetMaxVolumesPerNode() != 0 {
		t.Errorf("got %v", resp)
	}
	if diff := cmp.Diff(map[string]string{
		"topology.csi.holdfast.dev/node":                  "node-1",
		"topology.csi.holdfast.dev/pool-00000000000000aa": "yes",
		"topology.csi.holdfast.dev/pool-00000000000000bb": "yes",
	}, resp.GetAccessibleTopology().GetSegments()); diff != "" {
		t.Errorf("topology (-want +got):\n%s", diff)
	}
}

func TestCapabilities(t *testing.T) {
	resp, err := plain(t).NodeGetCapabilities(t.Context(), &csi.NodeGetCapabilitiesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range resp.GetCapabilities() {
		got = append(got, c.GetRpc().GetType().String())
	}
	slices.Sort(got)
	if diff := cmp.Diff([]string{"EXPAND_VOLUME", "GET_STORAGE_HEALTH", "GET_VOLUME_HEALTH", "GET_VOLUME_STATS", "SINGLE_NODE_MULTI_WRITER", "STAGE_UNSTAGE_VOLUME"}, got); diff != "" {
		t.Errorf("capabilities (-want +got):\n%s", diff)
	}
}

func TestStepsHaveUniqueNames(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range Steps() {
		if seen[s] {
			t.Errorf("step %s is listed twice", s)
		}
		seen[s] = true
	}
}

func TestCallsWithMissingOrImpossibleArgumentsAreRefused(t *testing.T) {
	s := plain(t)
	ctx := t.Context()
	unknown := string(volume.NewID(volume.KindVolume, testPool, "?"))
	elsewhere := string(volume.NewID(volume.KindVolume, "00000000000000ff", "?"))
	path := s.root.Path() + "/p"
	c := capabilityOf(ext4, rwo)
	for name, tc := range map[string]struct {
		call func() error
		want error
	}{
		"stage without id": {func() error {
			_, err := s.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{StagingTargetPath: path, VolumeCapability: c})
			return err
		}, volume.ErrInvalid},
		"stage without path": {func() error {
			_, err := s.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{VolumeId: unknown, VolumeCapability: c})
			return err
		}, volume.ErrInvalid},
		"stage without capability": {func() error {
			_, err := s.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{VolumeId: unknown, StagingTargetPath: path})
			return err
		}, volume.ErrInvalid},
		"stage of a malformed id without path": {func() error {
			_, err := s.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{VolumeId: "x", VolumeCapability: c})
			return err
		}, volume.ErrInvalid},
		"stage of a malformed id without capability": {func() error {
			_, err := s.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{VolumeId: "x", StagingTargetPath: path})
			return err
		}, volume.ErrInvalid},
		"stage of a malformed id": {func() error {
			_, err := s.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{VolumeId: "x", StagingTargetPath: path, VolumeCapability: c})
			return err
		}, volume.ErrNotFound},
		"stage of an unknown volume": {func() error {
			_, err := s.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{VolumeId: unknown, StagingTargetPath: path, VolumeCapability: c})
			return err
		}, volume.ErrNotFound},
		"stage in a pool that is not here": {func() error {
			_, err := s.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{VolumeId: elsewhere, StagingTargetPath: path, VolumeCapability: c})
			return err
		}, volume.ErrUnavailable},
		"unstage without id": {func() error {
			_, err := s.NodeUnstageVolume(ctx, &csi.NodeUnstageVolumeRequest{StagingTargetPath: path})
			return err
		}, volume.ErrInvalid},
		"unstage without path": {func() error {
			_, err := s.NodeUnstageVolume(ctx, &csi.NodeUnstageVolumeRequest{VolumeId: unknown})
			return err
		}, volume.ErrInvalid},
		"unpublish without id": {func() error {
			_, err := s.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{TargetPath: path})
			return err
		}, volume.ErrInvalid},
		"unpublish without path": {func() error {
			_, err := s.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: unknown})
			return err
		}, volume.ErrInvalid},
		"unpublish outside": {func() error {
			_, err := s.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: unknown, TargetPath: "/etc"})
			return err
		}, volume.ErrInvalid},
		"stats without id": {func() error {
			_, err := s.NodeGetVolumeStats(ctx, &csi.NodeGetVolumeStatsRequest{VolumePath: path})
			return err
		}, volume.ErrInvalid},
		"stats of a malformed id": {func() error {
			_, err := s.NodeGetVolumeStats(ctx, &csi.NodeGetVolumeStatsRequest{VolumeId: "x", VolumePath: "some/path"})
			return err
		}, volume.ErrNotFound},
	} {
		err := tc.call()
		t.Log(name)
		wantErr(t, err, tc.want)
	}
}

// poolless is an engine whose pools could not be made.
type poolless struct{ backend.Attacher }

func (poolless) Pools() []volume.Pool {
	return []volume.Pool{{Name: "default", Reason: "no space in pool"}}
}

func TestNodeInfoWaitsForAPool(t *testing.T) {
	_, err := New(Config{NodeID: "node-1", Backend: poolless{}}).NodeGetInfo(t.Context(), &csi.NodeGetInfoRequest{})
	if !errors.Is(err, volume.ErrUnavailable) || !strings.Contains(err.Error(), "default: no space in pool") {
		t.Errorf("got %v", err)
	}
}

func TestNodeInfoWaitsForThePools(t *testing.T) {
	s := New(Config{NodeID: "node-1", Ready: func() bool { return false }})
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.NodeGetInfo(short, &csi.NodeGetInfoRequest{}); !errors.Is(err, volume.ErrUnavailable) || !strings.Contains(err.Error(), "starting") {
		t.Errorf("a driver that is starting answered: %v", err)
	}

	started := time.Now()
	s = New(Config{NodeID: "node-1", Backend: poolless{}, Ready: func() bool { return time.Since(started) > 100*time.Millisecond }})
	if _, err := s.NodeGetInfo(t.Context(), &csi.NodeGetInfoRequest{}); err == nil || strings.Contains(err.Error(), "starting") || time.Since(started) < 100*time.Millisecond {
		t.Errorf("after %s, before start-up has ended: %v", time.Since(started), err)
	}
}
