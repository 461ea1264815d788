package controller

import (
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/pkg/topology"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func TestCapacityFollowsPoolAndTopology(t *testing.T) {
	b := newBench(t)
	const fast, slow = 100 * volume.GiB, 10 * volume.GiB
	// What external-provisioner sends, whatever the class is for.
	arbitrary := &csi.VolumeCapability{AccessType: &csi.VolumeCapability_Mount{}, AccessMode: &csi.VolumeCapability_AccessMode{}}
	hdd := map[string]string{"pool": "hdd"}
	for name, tc := range map[string]struct {
		req                *csi.GetCapacityRequest
		available, largest volume.Bytes
		least              volume.Bytes
	}{
		"everything":         {&csi.GetCapacityRequest{}, fast + slow, fast, volume.MiB},
		"one pool":           {&csi.GetCapacityRequest{Parameters: hdd}, slow, slow, volume.MiB},
		"an unknown pool":    {&csi.GetCapacityRequest{Parameters: map[string]string{"pool": "ssd"}}, fast + slow, fast, volume.MiB},
		"a wrong parameter":  {&csi.GetCapacityRequest{Parameters: map[string]string{"pool": "hdd", "iops": "1"}}, fast + slow, fast, volume.MiB},
		"this node":          {&csi.GetCapacityRequest{AccessibleTopology: &csi.Topology{Segments: map[string]string{topology.NodeKey: node}}}, fast + slow, fast, volume.MiB},
		"another node":       {&csi.GetCapacityRequest{AccessibleTopology: &csi.Topology{Segments: map[string]string{topology.NodeKey: "node-2"}}}, 0, 0, volume.MiB},
		"one pool's segment": {&csi.GetCapacityRequest{AccessibleTopology: segment(fastID)}, fast, fast, volume.MiB},
		"the wrong segment":  {&csi.GetCapacityRequest{AccessibleTopology: segment(fastID), Parameters: hdd}, 0, 0, volume.MiB},
		"the provisioner":    {&csi.GetCapacityRequest{VolumeCapabilities: []*csi.VolumeCapability{arbitrary}, Parameters: map[string]string{"sectorSize": "512"}}, fast + slow, fast, 16 * volume.MiB},
		"xfs":                {&csi.GetCapacityRequest{VolumeCapabilities: []*csi.VolumeCapability{mountCap("xfs", rwo)}}, fast + slow, fast, 300 * volume.MiB},
		"many writers":       {&csi.GetCapacityRequest{VolumeCapabilities: []*csi.VolumeCapability{blockCap(csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER)}}, 0, 0, volume.MiB},
	} {
		t.Run(name, func(t *testing.T) {
			resp, err := b.GetCapacity(t.Context(), tc.req)
			if err != nil {
				t.Fatal(err)
			}
			if got := volume.Bytes(resp.GetAvailableCapacity()); got != tc.available {
				t.Errorf("available %s, want %s", got, tc.available)
			}
			if got := volume.Bytes(resp.GetMaximumVolumeSize().GetValue()); got != tc.largest {
				t.Errorf("maximum %s, want %s", got, tc.largest)
			}
			if got := volume.Bytes(resp.GetMinimumVolumeSize().GetValue()); got != tc.least {
				t.Errorf("minimum %s, want %s", got, tc.least)
			}
		})
	}
}

func TestCapacityOfAPoolThatIsAwayIsNothing(t *testing.T) {
	b := newBench(t)
	b.memory.Unavailable("default")
	resp, err := b.GetCapacity(t.Context(), &csi.GetCapacityRequest{AccessibleTopology: segment(fastID)})
	if err != nil || resp.GetAvailableCapacity() != 0 {
		t.Errorf("got %v, %v; want 0", resp, err)
	}
}
