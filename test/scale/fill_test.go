package scale

import (
	"fmt"
	"io"
	"net/http"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/test/figures"
)

// fill makes all volumes and all snapshots, one after another.
func (s *scene) fill() {
	s.section("Calls while the pool fills")
	s.edgesTable()
	s.edges("CreateVolume", s.each(s.plan.volumes, func(i int) error {
		c := claim(i)
		v, err := s.driver.Create(s.ctx, c)
		s.volumes = append(s.volumes, member{v.GetVolumeId(), c})
		return err
	}))
	s.edges("CreateSnapshot", s.each(s.plan.volumes*s.plan.snapshots, func(i int) error {
		snap, err := s.driver.Snapshot(s.ctx, fmt.Sprintf("snapshot-%05d", i), s.volumes[i%len(s.volumes)].id)
		s.snapshots = append(s.snapshots, snap.GetSnapshotId())
		return err
	}))
	s.memory("after the last create")
}

// growTenfold grows the volumes that were made to be grown. Their filesystems
// follow when they are staged.
func (s *scene) growTenfold() {
	var all figures.Samples
	for i := range s.volumes {
		if !growsTenfold(i) {
			continue
		}
		m := &s.volumes[i]
		m.claim.Size *= 10
		all = append(all, s.timed(func() error { return s.driver.Expand(s.ctx, m.id, "", m.claim, m.claim.Size) }))
	}
	s.page.Line("")
	s.page.Line("ControllerExpandVolume to ten times the size, %d xfs volumes: p50 %s, p95 %s.", len(all), figures.Milliseconds(all.Median()), figures.Milliseconds(all.Percentile(95)))
}

// list measures what reads all objects.
func (s *scene) list() {
	s.section("Reads with a full pool")
	const times = 100
	ctl := s.driver.Controller
	s.page.Table("call", "p50", "p99", "CPU of the driver, each")
	row := func(what string, n int, fn func(int) error) figures.Samples {
		before := s.cpu()
		all := s.each(n, fn)
		s.page.Row(what, figures.Milliseconds(all.Median()), figures.Milliseconds(all.Percentile(99)), figures.Milliseconds((s.cpu()-before)/(max(1, timesOf(n)))))
		return all
	}
	row("ListVolumes, whole", times, func(int) error { return s.countVolumes(0) })
	row("ListVolumes, all pages of 100", times/10, func(int) error { return s.countVolumes(100) })
	page := row("ListVolumes, one page of 100", times, func(int) error {
		_, err := ctl.ListVolumes(s.ctx, &csi.ListVolumesRequest{MaxEntries: 100})
		return err
	})
	row("ListSnapshots, whole", times/5, func(int) error { return s.countSnapshots(0) })
	row("ListSnapshots, all pages of 100", times/20, func(int) error { return s.countSnapshots(100) })
	row("ListSnapshots, one page of 100", times, func(int) error {
		_, err := ctl.ListSnapshots(s.ctx, &csi.ListSnapshotsRequest{MaxEntries: 100})
		return err
	})
	row("ListSnapshots of one volume", times, func(i int) error {
		resp, err := ctl.ListSnapshots(s.ctx, &csi.ListSnapshotsRequest{SourceVolumeId: s.volumes[i].id})
		if err == nil && len(resp.GetEntries()) != s.plan.snapshots {
			return fmt.Errorf("%d snapshots of %s are listed", len(resp.GetEntries()), s.volumes[i].id)
		}
		return err
	})
	row("ListSnapshots of one id", times, func(i int) error {
		_, err := ctl.ListSnapshots(s.ctx, &csi.ListSnapshotsRequest{SnapshotId: s.snapshots[i]})
		return err
	})
	row("ControllerGetVolume", times, func(i int) error {
		_, err := ctl.ControllerGetVolume(s.ctx, &csi.ControllerGetVolumeRequest{VolumeId: s.volumes[i].id})
		return err
	})
	capacity := row("GetCapacity", times, func(int) error {
		_, err := ctl.GetCapacity(s.ctx, &csi.GetCapacityRequest{})
		return err
	})
	scrape := row("/metrics, a scrape", times/10, func(int) error { return s.scrape() })
	s.aimBelow("a scrape of /metrics, p50", mostScrape, scrape.Median())
	p := s.plan.percentile()
	s.aimBelow(fmt.Sprintf("GetCapacity, p%d", p), mostCapacity, capacity.Percentile(p))
	s.aimBelow(fmt.Sprintf("ListVolumes, a page of 100, p%d", p), mostPage, page.Percentile(p))
	s.memory("after the lists")
}

// scrape reads the metrics as Prometheus does, and demands that they speak of the
// volumes.
func (s *scene) scrape() error {
	resp, err := http.Get("http://" + s.endpoint + "/metrics")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK || len(body) < len(s.volumes) {
		return fmt.Errorf("%s with %d bytes", resp.Status, len(body))
	}
	return nil
}

// countVolumes lists all volumes in pages, or whole, and demands that each is
// there.
func (s *scene) countVolumes(page int32) error {
	seen := map[string]bool{}
	for token := ""; ; {
		resp, err := s.driver.Controller.ListVolumes(s.ctx, &csi.ListVolumesRequest{MaxEntries: page, StartingToken: token})
		if err != nil {
			return err
		}
		for _, e := range resp.GetEntries() {
			seen[e.GetVolume().GetVolumeId()] = true
		}
		if token = resp.GetNextToken(); token == "" {
			break
		}
	}
	if len(seen) != len(s.volumes) {
		return fmt.Errorf("%d of %d volumes are listed", len(seen), len(s.volumes))
	}
	return nil
}

func (s *scene) countSnapshots(page int32) error {
	seen := map[string]bool{}
	for token := ""; ; {
		resp, err := s.driver.Controller.ListSnapshots(s.ctx, &csi.ListSnapshotsRequest{MaxEntries: page, StartingToken: token})
		if err != nil {
			return err
		}
		for _, e := range resp.GetEntries() {
			seen[e.GetSnapshot().GetSnapshotId()] = true
		}
		if token = resp.GetNextToken(); token == "" {
			break
		}
	}
	if len(seen) != len(s.snapshots) {
		return fmt.Errorf("%d of %d snapshots are listed", len(seen), len(s.snapshots))
	}
	return nil
}
