package lifecycle

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// What breaks under a pod is seen by whoever looks, in every way, and is over when
// the pod was started again.
func TestHealth(t *testing.T) {
	s := newSite(t, 2*volume.GiB)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	s.must(err)
	address := l.Addr().String()
	s.must(l.Close())
	s.box.Flags = append(s.box.Flags, "--http-endpoint="+address)
	s.restart("")
	s.run("an ext4 that failed is told, and repaired when its pod starts again", func(s *site) { failedAndRepaired(s, address) })
}

func failedAndRepaired(s *site, address string) {
	sick, well := s.launch(ext4("sick")), s.launch(ext4("well"))
	sick.write("file", 1)
	s.must(syncAt(sick.path("file")))
	s.mustBeWell(sick, well)

	var st unix.Stat_t
	s.must(unix.Stat(sick.path("file"), &st))
	trigger := fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))
	device, err := os.Readlink(trigger)
	s.must(err)
	s.must(os.WriteFile("/sys/fs/ext4/"+device[strings.LastIndexByte(device, '/')+1:]+"/trigger_fs_error", []byte("1"), 0))

	const reason = "FilesystemReadOnly"
	s.eventually("the node finds it", func() bool { return len(s.healthOf(sick)) > 0 })
	if got := s.healthOf(sick); len(got) != 1 || got[0].GetReason() != reason || got[0].GetStatus() != csi.VolumeHealthErrorType_INACCESSIBLE {
		s.t.Errorf("the node says %v", got)
	}
	condition := fmt.Sprintf(`holdfast_volume_condition{pool="default",reason=%q,severity="inaccessible",volume=%q} 1`, reason, sick.id)
	s.eventually("the list has it", func() bool { return s.unhealthy()[sick.id] == reason })
	s.eventually("a metric shows it", func() bool { return strings.Contains(s.metrics(address), condition+"\n") })
	s.eventually("the log tells it", func() bool { return strings.Contains(s.driver.Log(), "reason="+reason) })
	if all := s.unhealthy(); len(all) != 1 {
		s.t.Errorf("unhealthy are %v", all)
	}
	if !strings.Contains(s.metrics(address), fmt.Sprintf(`holdfast_volume_healthy{pool="default",volume=%q} 1`, well.id)) {
		s.t.Error("no metric says that the other volume is well")
	}

	sick.stop()
	sick.start()
	sick.verify("file", 1)
	s.eventually("the node finds that it is well", func() bool { return len(s.healthOf(sick)) == 0 })
	s.mustBeWell(sick, well)
	s.eventually("the list has nothing", func() bool { return len(s.unhealthy()) == 0 })
	s.eventually("the metric is gone", func() bool { return !strings.Contains(s.metrics(address), "holdfast_volume_condition{") })
	s.eventually("the log tells that it is over", func() bool { return strings.Contains(s.driver.Log(), "reason=Healed") })
}

func syncAt(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Syncfs(int(f.Fd()))
}

func (s *site) mustBeWell(pods ...*pod) {
	s.t.Helper()
	for _, p := range pods {
		if got := s.healthOf(p); len(got) > 0 {
			s.t.Errorf("%s: %v", p.claim.Name, got)
		}
	}
	resp, err := s.driver.Node.NodeGetStorageHealth(s.ctx, &csi.NodeGetStorageHealthRequest{})
	s.must(err)
	if got := resp.GetBackendHealth(); len(got) > 0 {
		s.t.Errorf("the pools: %v", got)
	}
}

func (s *site) healthOf(p *pod) []*csi.VolumeHealth_VolumeHealthEntry {
	s.t.Helper()
	resp, err := s.driver.Node.NodeGetVolumeHealth(s.ctx, &csi.NodeGetVolumeHealthRequest{VolumeId: p.id, VolumePublishPath: p.path("")})
	s.must(err)
	return resp.GetVolumeHealth().GetHealthStatuses()
}

// unhealthy are the reasons of the volumes that the controller lists, by id.
func (s *site) unhealthy() map[string]string {
	s.t.Helper()
	resp, err := s.driver.Controller.ControllerListVolumeHealth(s.ctx, &csi.ControllerListVolumeHealthRequest{})
	s.must(err)
	out := map[string]string{}
	for _, e := range resp.GetEntries() {
		for _, h := range e.GetHealthStatuses() {
			out[e.GetVolumeId()] += h.GetReason()
		}
	}
	return out
}

func (s *site) metrics(address string) string {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.ctx, http.MethodGet, "http://"+address+"/metrics", nil)
	s.must(err)
	resp, err := http.DefaultClient.Do(req)
	s.must(err)
	defer resp.Body.Close()
	page, err := io.ReadAll(resp.Body)
	s.must(err)
	return string(page)
}

// eventually waits for what a look at the machine brings, which a question has
// brought forward.
func (s *site) eventually(what string, is func() bool) {
	s.t.Helper()
	for end := time.Now().Add(15 * time.Second); !is(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatalf("not in 15 s: %s", what)
		}
	}
}
