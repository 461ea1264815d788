// Package topology maps pools to the topology segments that Kubernetes
// schedules by, and back.
//
// It promises that a volume's segment names its pool alone, so that a disk that
// moves to another machine takes its volumes with it. There is one key per pool
// with the constant value "yes", because a key whose value changes makes kubelet
// refuse the node's registration. It knows neither CSI messages nor nodes that
// are not this one.
package topology

import (
	"slices"
	"strings"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

const (
	// Prefix starts every key (CSI spec, Topology: one identical prefix).
	Prefix = "topology.csi.holdfast.dev/"
	// NodeKey is the key whose value is the name of the node.
	NodeKey = Prefix + "node"

	poolPrefix = Prefix + "pool-"
	yes        = "yes"
)

// Segments is one topology: all its keys must hold.
type Segments map[string]string

// OfPool is the segment from which the volumes of a pool can be reached.
func OfPool(id volume.PoolID) Segments {
	return Segments{poolPrefix + string(id): yes}
}

// OfNode is the topology of this node with these pools.
func OfNode(node string, pools []volume.Pool) Segments {
	s := Segments{NodeKey: node}
	for _, p := range pools {
		if p.ID != "" {
			s[poolPrefix+string(p.ID)] = yes
		}
	}
	return s
}

// PoolsIn are those of the pools of this node that a segment allows: the ones
// it names, or all of them if it names just this node. A segment with a key that
// does not hold here allows none. Keys are compared without regard to case (CSI
// spec, Topology).
func PoolsIn(s Segments, node string, pools []volume.Pool) []volume.PoolID {
	var named, all []volume.PoolID
	for _, p := range pools {
		if p.ID != "" { // one that was never opened has none yet
			all = append(all, p.ID)
		}
	}
	slices.Sort(all)
	for key, value := range s {
		key = strings.ToLower(key)
		id, isPool := strings.CutPrefix(key, poolPrefix)
		switch {
		case key == NodeKey && value == node:
		case isPool && value == yes && slices.Contains(all, volume.PoolID(id)):
			named = append(named, volume.PoolID(id))
		default:
			return nil
		}
	}
	if named != nil {
		slices.Sort(named)
		return named
	}
	return all
}
