package hostile

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
)

// raceTime is how long a directory on the way to a target is swapped for a link.
const raceTime = 5 * time.Second

// TestADirectorySwappedForALinkLeadsNowhere publishes below a directory which
// somebody swaps for a link to the canary and back, as fast as he can
// (CVE-2021-30465, CVE-2021-25741).
func TestADirectorySwappedForALinkLeadsNowhere(t *testing.T) {
	s := newScene(t)
	pod, link := s.box.Kubelet()+"/pods/attacker", s.box.Kubelet()+"/pods/link"
	s.must(os.Symlink(canaryDir(s.box)+"/dir", link))
	s.start()

	stop, swapped := make(chan struct{}), make(chan int)
	go func() {
		for n := 0; ; n++ {
			select {
			case <-stop:
				if n%2 == 0 { // all is as it was
					swapped <- n
					return
				}
			default:
			}
			if unix.Renameat2(unix.AT_FDCWD, pod, unix.AT_FDCWD, link, unix.RENAME_EXCHANGE) != nil {
				n--
			}
		}
	}()
	target := filepath.Join(pod, "empty") // which the canary has
	answers := map[string]int{}
	for end := time.Now().Add(raceTime); time.Now().Before(end); {
		for _, w := range []*witness{s.witnesses[0], s.witnesses[2]} {
			publish := s.publish(w).req.(*csi.NodePublishVolumeRequest)
			publish.TargetPath = target
			_, code := s.call(publish)
			answers["publish "+code.String()]++
			s.checkMountsInside()
			_, code = s.call(&csi.NodeUnpublishVolumeRequest{VolumeId: w.id, TargetPath: target})
			answers["unpublish "+code.String()]++
			s.checkMountsInside()
		}
	}
	close(stop)
	t.Logf("%d swaps, answers: %v", <-swapped, answers)
	if answers["publish OK"] == 0 || answers["publish InvalidArgument"] == 0 {
		t.Error("the race was not one: it takes calls that meet the directory and calls that meet the link")
	}
	for answer := range answers {
		for _, bad := range []codes.Code{codes.Internal, codes.Unknown, codes.DataLoss} {
			if strings.HasSuffix(answer, bad.String()) {
				t.Errorf("answered %s", answer)
			}
		}
	}
	// The last calls may have met the link.
	for _, w := range []*witness{s.witnesses[0], s.witnesses[2]} {
		s.call(&csi.NodeUnpublishVolumeRequest{VolumeId: w.id, TargetPath: target})
	}
	demandUnchanged(t, s.box, s.before, "the race")
	s.end()
}

// checkMountsInside demands that nothing is mounted outside the directories of
// kubelet and the pools.
func (s *scene) checkMountsInside() {
	s.t.Helper()
	lines, err := mounts()
	s.must(err)
	for _, line := range lines {
		at := strings.Fields(line)[5]
		if strings.HasPrefix(at, s.box.Dir) && !strings.HasPrefix(at, s.box.Kubelet()+"/") && !strings.HasPrefix(at, s.box.Pools()+"/") {
			s.t.Fatalf("mounted outside: %s", line)
		}
	}
}
