// Package controller is the CSI Controller service of a storage engine: it
// turns CSI messages into calls of a backend.Provisioner and the answers back.
//
// It promises CSI semantics and nothing else: which arguments are refused, what
// an answer holds, how lists are paged. Every handler is idempotent because the
// engine is. It takes no locks, sets no deadlines, maps no error to a gRPC code
// and logs nothing but one warning that has no other way out; pkg/rpc does the
// rest. It knows no concrete engine and touches no device.
package controller

import (
	"context"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/pkg/backend"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// Config is what a Server works with.
type Config struct {
	Backend backend.Provisioner
	// NodeID is the name of the node whose pools these are, as NodeGetInfo
	// answers it.
	NodeID string
	// Warn tells the operator what no answer can carry. args are pairs of key and
	// value as in log/slog. nil drops it.
	Warn func(ctx context.Context, msg string, args ...any)
}

// Server implements csi.ControllerServer. An RPC that it does not have is
// UNIMPLEMENTED.
type Server struct {
	csi.UnimplementedControllerServer

	backend backend.Provisioner
	nodeID  string
	warn    func(ctx context.Context, msg string, args ...any)
}

// New is a Server over an engine.
func New(c Config) *Server {
	s := &Server{backend: c.Backend, nodeID: c.NodeID, warn: c.Warn}
	if s.warn == nil {
		s.warn = func(context.Context, string, ...any) {}
	}
	return s
}

// ControllerGetCapabilities answers what the engine can do.
func (s *Server) ControllerGetCapabilities(context.Context, *csi.ControllerGetCapabilitiesRequest) (*csi.ControllerGetCapabilitiesResponse, error) {
	can := s.backend.Capabilities()
	types := []csi.ControllerServiceCapability_RPC_Type{
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME,
		csi.ControllerServiceCapability_RPC_LIST_VOLUMES,
		csi.ControllerServiceCapability_RPC_GET_VOLUME,
		csi.ControllerServiceCapability_RPC_GET_CAPACITY,
		csi.ControllerServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
		csi.ControllerServiceCapability_RPC_GET_VOLUME_HEALTH,
		csi.ControllerServiceCapability_RPC_LIST_VOLUME_HEALTH,
	}
	if can.Snapshots {
		types = append(types,
			csi.ControllerServiceCapability_RPC_CREATE_DELETE_SNAPSHOT,
			csi.ControllerServiceCapability_RPC_LIST_SNAPSHOTS,
			csi.ControllerServiceCapability_RPC_GET_SNAPSHOT)
	}
	if can.Clones {
		types = append(types, csi.ControllerServiceCapability_RPC_CLONE_VOLUME)
	}
	if can.Expansion {
		types = append(types, csi.ControllerServiceCapability_RPC_EXPAND_VOLUME)
	}
	resp := &csi.ControllerGetCapabilitiesResponse{}
	for _, t := range types {
		resp.Capabilities = append(resp.Capabilities, &csi.ControllerServiceCapability{
			Type: &csi.ControllerServiceCapability_Rpc{
				Rpc: &csi.ControllerServiceCapability_RPC{Type: t},
			},
		})
	}
	return resp, nil
}

// poolName is the name of a pool of this node, "" if it is none.
func (s *Server) poolName(id volume.PoolID) string {
	for _, p := range s.backend.Pools() {
		if p.ID == id {
			return p.Name
		}
	}
	return ""
}
