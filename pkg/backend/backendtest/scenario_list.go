package backendtest

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func listScenarios() []scenario {
	return []scenario{
		{name: "lists are complete and in order of id", needs: []need{needSnapshots}, table: true, changes: true, run: func(s *session) {
			s.act()
			var volumes []volume.Volume
			var snapshots []volume.Snapshot
			for i := range 6 {
				spec := s.spec(fmt.Sprintf("volume %d", i), volume.MiB, block)
				pools := s.engine().Pools()
				spec.Pool = pools[i%len(pools)].Name
				v := s.created(spec)
				volumes = append(volumes, v)
				if i%2 == 0 {
					snapshots = append(snapshots, s.snapshotted(s.snapshotSpec(fmt.Sprintf("snapshot %d", i), v.ID)))
				}
			}
			slices.SortFunc(volumes, func(a, b volume.Volume) int { return cmp.Compare(a.ID, b.ID) })
			slices.SortFunc(snapshots, func(a, b volume.Snapshot) int { return cmp.Compare(a.ID, b.ID) })
			s.same("the list of volumes", volumes, s.volumes())
			s.same("the list of snapshots", snapshots, s.snapshots())
		}},
	}
}
