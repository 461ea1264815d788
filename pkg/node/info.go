package node

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/pkg/topology"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// NodeGetInfo answers the name of the node and the pools whose volumes it can
// reach. There is no limit on the number of volumes: loop devices have none.
//
// It waits for start-up to end, as long as its caller does and startPatience at
// most: a refusal makes the registrar end, and its container start again. If that
// is not enough, and as long as the node has no pool at all, it is ErrUnavailable:
// kubelet asks until it has an answer and then never again, and a pool that is not
// known yet would be missing from the node's topology.
func (s *Server) NodeGetInfo(ctx context.Context, _ *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	if !s.awaitReady(ctx) {
		return nil, fmt.Errorf("%w: the driver is starting and does not know all its pools yet; ask again", volume.ErrUnavailable)
	}
	pools := s.backend.Pools()
	if err := anyKnown(pools); err != nil {
		return nil, err
	}
	return &csi.NodeGetInfoResponse{
		NodeId:             s.nodeID,
		AccessibleTopology: &csi.Topology{Segments: topology.OfNode(s.nodeID, pools)},
	}, nil
}

// startPatience is less than the time that kubelet allows a CSI call.
const startPatience = time.Minute

// awaitReady says whether start-up has ended, now or soon.
func (s *Server) awaitReady(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !s.ready() {
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
	return true
}

// anyKnown says why no pool was ever opened, if that is so. A pool that is away
// has its id from when it was here.
func anyKnown(pools []volume.Pool) error {
	var reasons []string
	for _, p := range pools {
		if p.ID != "" {
			return nil
		}
		reasons = append(reasons, p.Name+": "+p.Reason)
	}
	return fmt.Errorf("%w: this node has no pool yet: %s", volume.ErrUnavailable, strings.Join(reasons, "; "))
}

// NodeGetCapabilities answers what this service can do.
func (s *Server) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	resp := &csi.NodeGetCapabilitiesResponse{}
	for _, t := range []csi.NodeServiceCapability_RPC_Type{
		csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME,
		csi.NodeServiceCapability_RPC_GET_VOLUME_STATS,
		csi.NodeServiceCapability_RPC_EXPAND_VOLUME,
		csi.NodeServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
		csi.NodeServiceCapability_RPC_GET_VOLUME_HEALTH,
		csi.NodeServiceCapability_RPC_GET_STORAGE_HEALTH,
	} {
		resp.Capabilities = append(resp.Capabilities, &csi.NodeServiceCapability{
			Type: &csi.NodeServiceCapability_Rpc{Rpc: &csi.NodeServiceCapability_RPC{Type: t}},
		})
	}
	return resp, nil
}
