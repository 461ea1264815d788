package lifecycle

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/holdfast-csi/holdfast/pkg/orchestrator"
	"github.com/holdfast-csi/holdfast/pkg/teardown"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func TestHolders(t *testing.T) {
	s := newSite(t, 3*volume.GiB)
	s.run("a staged volume is not deleted, and who has it is named", stagedIsNotDeleted)
	s.run("a volume in another mount namespace is let go, kept, and taken up again", heldElsewhere)
}

func stagedIsNotDeleted(s *site) {
	for _, claim := range []orchestrator.Claim{ext4("staged-ext4"), block("staged-block")} {
		p := s.launch(claim)
		p.write("data", 1)
		s.mustRefuse(s.driver.Delete(s.ctx, p.id), codes.FailedPrecondition, "in use", "held by", "unstage it")
		s.must(s.driver.Unpublish(s.ctx, p.id, p.name, claim))
		s.mustRefuse(s.driver.Delete(s.ctx, p.id), codes.FailedPrecondition, "in use")
		// A driver that has just come up knows it as well.
		s.restart("")
		s.mustRefuse(s.driver.Delete(s.ctx, p.id), codes.FailedPrecondition, "in use")
		p.start()
		p.verify("data", 1)
	}
}

// loops are the devices of a volume.
func (p *pod) loops() []int {
	p.t.Helper()
	all, err := teardown.LoopsBelow(p.box.Dir)
	p.must(err)
	var out []int
	for _, l := range all {
		if strings.Contains(l.BackingPath, p.id) {
			out = append(out, l.Index)
		}
	}
	return out
}

// holder is a process that has copied all mounts, as a monitoring agent does.
func (s *site) holder() *exec.Cmd {
	s.t.Helper()
	cmd := exec.Command("unshare", "-m", "sleep", "300")
	s.must(cmd.Start())
	s.t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have been stopped before
		_ = cmd.Wait()
	})
	for end := time.Now().Add(writeWait); ; time.Sleep(time.Millisecond) {
		comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", cmd.Process.Pid))
		s.must(err)
		if string(comm) == "sleep\n" {
			return cmd
		}
		if time.Now().After(end) {
			s.t.Fatalf("the holder is still %s", comm)
		}
	}
}

func heldElsewhere(s *site) {
	for _, claim := range []orchestrator.Claim{ext4("held-ext4"), xfs("held-xfs")} {
		p := s.launch(claim)
		p.write("data", 1)
		before := p.loops()
		holder := s.holder()
		p.stop()
		name := fmt.Sprintf("sleep (pid %d)", holder.Process.Pid)
		s.mustRefuse(s.driver.Delete(s.ctx, p.id), codes.FailedPrecondition, name)

		p.start()
		if after := p.loops(); len(before) != 1 || len(after) != 1 || before[0] != after[0] {
			s.t.Errorf("%s: the devices were %v and are %v", claim.Name, before, after)
		}
		p.verify("data", 1)
		p.write("data", 2)
		snap := p.snapshot(claim.Name)
		p.stop()
		s.mustRefuse(s.driver.Delete(s.ctx, p.id), codes.FailedPrecondition, name)
		// Nobody here has it mounted now; a snapshot must reach it all the same.
		s.must(s.driver.DeleteSnapshot(s.ctx, snap))
		snap = p.snapshot(claim.Name)
		s.launch(p.copyOf(claim.Name+"-restored", snap)).verify("data", 2)

		s.must(holder.Process.Kill())
		_ = holder.Wait() // it was killed
		var err error
		for end := time.Now().Add(writeWait); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
			if err = s.driver.Delete(s.ctx, p.id); err == nil {
				break
			}
		}
		s.must(err)
		p.forget()
	}
}
