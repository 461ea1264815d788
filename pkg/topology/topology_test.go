package topology

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

const (
	nvme volume.PoolID = "00000000000000aa"
	hdd  volume.PoolID = "00000000000000bb"
	gone volume.PoolID = "00000000000000cc"
)

var pools = []volume.Pool{{ID: hdd, Name: "hdd"}, {ID: nvme, Name: "nvme"}, {Name: "never-opened"}}

func TestANodeShowsAllItsPools(t *testing.T) {
	want := Segments{
		"topology.csi.holdfast.dev/node":                  "n1",
		"topology.csi.holdfast.dev/pool-00000000000000aa": "yes",
		"topology.csi.holdfast.dev/pool-00000000000000bb": "yes",
	}
	if diff := cmp.Diff(want, OfNode("n1", pools)); diff != "" {
		t.Error(diff)
	}
}

func TestKeysKeepTheLimitsOfLabels(t *testing.T) {
	for key := range OfPool(nvme) {
		if name := key[len(Prefix):]; len(name) > 63 {
			t.Errorf("%s is longer than a label's name may be", name)
		}
	}
}

func TestPoolsIn(t *testing.T) {
	for name, c := range map[string]struct {
		segment Segments
		want    []volume.PoolID
	}{
		"the node means all its pools":   {Segments{NodeKey: "n1"}, []volume.PoolID{nvme, hdd}},
		"a pool means itself":            {OfPool(hdd), []volume.PoolID{hdd}},
		"the node's whole topology":      {OfNode("n1", pools), []volume.PoolID{nvme, hdd}},
		"another node":                   {Segments{NodeKey: "n2"}, nil},
		"a pool of another node":         {OfPool(gone), nil},
		"one key that does not hold":     {Segments{NodeKey: "n1", "topology.kubernetes.io/zone": "a"}, nil},
		"a pool with another value":      {Segments{poolPrefix + string(hdd): "no"}, nil},
		"upper case":                     {Segments{"Topology.CSI.holdfast.dev/Node": "n1"}, []volume.PoolID{nvme, hdd}},
		"no key at all is no constraint": {Segments{}, []volume.PoolID{nvme, hdd}},
	} {
		if diff := cmp.Diff(c.want, PoolsIn(c.segment, "n1", pools)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}
