package controller

import (
	"fmt"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/pkg/topology"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// allowed are the pools that a topology requirement permits, the preferred ones
// first; nil means any. It is ErrNoSpace if it permits none: RESOURCE_EXHAUSTED
// makes the scheduler choose another node (CSI spec, CreateVolume errors).
func (s *Server) allowed(r *csi.TopologyRequirement) ([]volume.PoolID, error) {
	if len(r.GetRequisite()) == 0 && len(r.GetPreferred()) == 0 {
		return nil, nil
	}
	requisite := s.poolsOf(r.GetRequisite())
	preferred := s.poolsOf(r.GetPreferred())
	if len(r.GetRequisite()) == 0 {
		// Without requisite topologies the preferred ones are a wish (CSI spec,
		// TopologyRequirement.preferred).
		for _, p := range s.knownPools() {
			requisite = append(requisite, p.ID)
		}
	}
	var out []volume.PoolID
	for _, id := range slices.Concat(preferred, requisite) {
		if slices.Contains(requisite, id) && !slices.Contains(out, id) {
			out = append(out, id)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("none of the pools of node %s is in the topology asked for: use volumeBindingMode WaitForFirstConsumer, or allowedTopologies that name one of them: %w", s.nodeID, volume.ErrNoSpace)
	}
	return out, nil
}

// poolsOf are the pools from which at least one of the topologies can be
// reached, in the order of the topologies.
func (s *Server) poolsOf(topologies []*csi.Topology) []volume.PoolID {
	pools := s.knownPools()
	var out []volume.PoolID
	for _, t := range topologies {
		out = append(out, topology.PoolsIn(t.GetSegments(), s.nodeID, pools)...)
	}
	return out
}

// knownPools are the pools whose identity is known; the others are in no
// topology.
func (s *Server) knownPools() []volume.Pool {
	return slices.DeleteFunc(slices.Clone(s.backend.Pools()), func(p volume.Pool) bool { return p.ID == "" })
}

// checkPlace is ErrExists if a volume that was there already is in a pool that
// the request does not want.
func (s *Server) checkPlace(v volume.Volume, spec volume.Spec) error {
	pool := v.ID.Pool()
	if len(spec.Allowed) > 0 && !slices.Contains(spec.Allowed, pool) {
		return fmt.Errorf("%w: volume %q exists in pool %s, which is not in the topology asked for", volume.ErrExists, spec.Name, pool)
	}
	if name := s.poolName(pool); spec.Pool != "" && name != spec.Pool {
		return fmt.Errorf("%w: volume %q exists in pool %q, asked for in pool %q", volume.ErrExists, spec.Name, name, spec.Pool)
	}
	return nil
}
