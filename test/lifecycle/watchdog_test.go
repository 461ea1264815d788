package lifecycle

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/holdfast-csi/holdfast/pkg/orchestrator"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/pkg/workload"
	"github.com/holdfast-csi/holdfast/test/harness"
)

// watchdogTimeout is far below the drivers' own: what thaws is the watchdog.
const watchdogTimeout = time.Second

func TestWatchdog(t *testing.T) {
	s := &site{t: t, box: harness.NewBox(t, 4*volume.GiB)}
	s.pool = filepath.Join(s.box.Pools(), "pool")
	s.limit()
	for _, dir := range []string{s.box.Kubelet(), s.box.Pools()} {
		share(s, dir)
	}
	s.driver = s.box.Start()
	// Before any volume is mounted, so that its namespace shows none.
	watchdog := s.box.StartWatchdog(watchdogTimeout)
	s.run("thaws for a driver that was killed, and no driver is needed", func(s *site) { thawedForTheDead(s, watchdog) })
	s.run("thaws for a driver that is stopped, whose snapshot is not used", func(s *site) { thawedForTheStopped(s, watchdog) })
	s.run("lets a snapshot be", func(s *site) { snapshotIsLeftAlone(s, watchdog) })
}

// inPod is a driver that is the first process of its PID namespace, as in a
// container, where it cannot kill itself by a signal.
var inPod = []string{"unshare", "--mount", "--propagation", "unchanged", "--pid", "--fork", "--mount-proc", "--kill-child"}

func thawedForTheDead(s *site, watchdog *harness.Watchdog) {
	defer func() { s.box.Wrap = nil }()
	for _, claim := range []orchestrator.Claim{ext4("dead-ext4"), xfs("dead-xfs")} {
		p := s.launch(claim)
		writer := p.journal()
		p.thawAtEnd()
		s.box.Wrap = inPod
		s.restart("freeze/frozen=kill")
		if _, err := s.driver.Snapshot(s.ctx, claim.Name, p.id); err == nil {
			s.t.Fatal("the snapshot succeeded although the driver was to die in it")
		}
		s.must(s.driver.WaitKilled(callLimit))
		died := time.Now()
		s.mustGoOn(writer)
		s.t.Logf("%s: the writer wrote again %s after the driver had died, with no driver running", claim.Name, time.Since(died))
		watchdog.WaitLog(p.id, writeWait)
		s.box.Wrap = nil
		s.driver = s.box.Start()
		s.mustHaveNothingUnderway()
		snap := p.snapshot(claim.Name)
		if _, err := workload.VerifyJournal(s.launch(p.copyOf(claim.Name+"-restored", snap)).path("journal")); err != nil {
			s.t.Error(err)
		}
	}
}

// share makes a directory what Bidirectional mount propagation makes of a
// hostPath.
func share(s *site, dir string) {
	s.t.Helper()
	s.mustDo(unix.Mount(dir, dir, "", unix.MS_BIND, ""))
	s.t.Cleanup(func() {
		// EINVAL: it was unmounted with what was below it.
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			s.t.Error(err)
		}
	})
	s.mustDo(unix.Mount("", dir, "", unix.MS_SHARED, ""))
}

// mustDo is must before there is a driver whose log could explain.
func (s *site) mustDo(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func thawedForTheStopped(s *site, watchdog *harness.Watchdog) {
	p := s.launch(xfs("stopped"))
	writer := p.journal()
	p.thawAtEnd()
	s.restart("freeze/frozen=sleep:4s")
	answer := make(chan error, 1)
	go func() {
		_, err := s.driver.Snapshot(s.ctx, "stopped", p.id)
		answer <- err
	}()
	waitStep(s, "freeze/frozen")
	writer.Stall()
	s.must(syscall.Kill(s.driver.PID(), syscall.SIGSTOP))
	mustHang(s, writer)
	s.mustGoOn(writer) // in writeWait
	stall := writer.Stall()
	s.t.Logf("the writer was stopped for %s", stall)
	// It counts from the intent, which comes some time before the freeze.
	if stall < watchdogTimeout/2 {
		s.t.Errorf("thawed after %s, with a timeout of %s", stall, watchdogTimeout)
	}
	watchdog.WaitLog("by a driver that lives", writeWait)
	s.must(syscall.Kill(s.driver.PID(), syscall.SIGCONT))
	s.mustRefuse(<-answer, codes.Unavailable, "not used", "try again")
	if left := s.snapshots(); len(left) > 0 {
		s.t.Errorf("a snapshot that failed is listed: %v", left)
	}
	s.mustHaveNothingUnderway()
	s.mustGoOn(writer)
	snap := p.snapshot("stopped")
	if _, err := workload.VerifyJournal(s.launch(p.copyOf("stopped-restored", snap)).path("journal")); err != nil {
		s.t.Error(err)
	}
}

func snapshotIsLeftAlone(s *site, watchdog *harness.Watchdog) {
	p := s.launch(ext4("alone"))
	writer := p.journal()
	before, cpu := len(watchdog.Log()), cpuTime(s, watchdog)
	s.restart("freeze/frozen=sleep:300ms")
	p.snapshot("alone")
	s.mustGoOn(writer)
	if said := watchdog.Log()[before:]; strings.TrimSpace(said) != "" {
		s.t.Errorf("it said: %s", said)
	}
	const idle = 3 * time.Second
	time.Sleep(idle)
	used := cpuTime(s, watchdog) - cpu
	s.t.Logf("it used %s of CPU", used)
	if used > idle/20 {
		s.t.Errorf("an idle watchdog used %s of CPU in about %s", used, idle)
	}
}

// cpuTime is what the processes of the watchdog's group have used so far.
func cpuTime(s *site, watchdog *harness.Watchdog) time.Duration {
	s.t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	s.must(err)
	var ticks int64
	for _, name := range stats {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended
		}
		// man 5 proc: after the name in parentheses come state, ppid, pgrp, ...
		_, rest, _ := strings.Cut(string(text), ") ")
		fields := strings.Fields(rest)
		if len(fields) < 13 || fields[2] != fmt.Sprint(watchdog.Group()) {
			continue
		}
		for _, f := range fields[11:13] { // utime, stime
			n, err := strconv.ParseInt(f, 10, 64)
			s.must(err)
			ticks += n
		}
	}
	return time.Duration(ticks) * 10 * time.Millisecond // USER_HZ is 100
}
