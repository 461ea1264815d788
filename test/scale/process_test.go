package scale

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/btrfs"
	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/pkg/teardown"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// trace is what the driver and the pool hold at an instant.
type trace struct {
	descriptors int
	loops       int
	mounts      int
	used        volume.Bytes // of the pool's disk
}

func (s *scene) observe() trace {
	s.t.Helper()
	fds, err := os.ReadDir(s.proc("fd"))
	s.must(err)
	loops, err := teardown.LoopsBelow(s.box.Dir)
	s.must(err)
	all, err := mount.List()
	s.must(err)
	out := trace{descriptors: len(fds), loops: len(loops)}
	for _, m := range all {
		if strings.HasPrefix(m.Path, s.box.Dir+"/") {
			out.mounts++
		}
	}
	out.used = s.used()
	return out
}

// used is what the pool's filesystem has in use. On btrfs statfs(2) counts what it
// keeps in reserve too, which grows with the trees and stays.
func (s *scene) used() volume.Bytes {
	s.t.Helper()
	if s.plan.fsType != "btrfs" {
		var st unix.Statfs_t
		s.must(unix.Statfs(s.disk, &st))
		return volume.Bytes(st.Blocks-st.Bfree) * volume.Bytes(st.Bsize)
	}
	dir, err := os.Open(s.disk)
	s.must(err)
	defer dir.Close()
	s.must(btrfs.Commit(dir)) // the counters follow it
	uuid, err := btrfs.FilesystemUUID(dir)
	s.must(err)
	var sum volume.Bytes
	for _, kind := range []string{"data", "metadata", "system"} {
		text, err := os.ReadFile(filepath.Join("/sys/fs/btrfs", uuid, "allocation", kind, "bytes_used"))
		s.must(err)
		n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
		s.must(err)
		sum += volume.Bytes(n)
	}
	return sum
}

// load is what the machine has to do on the average of the last 1, 5 and 15 minutes,
// in processes (proc(5), loadavg): a run beside other work is slower than it need be.
func load(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(text))
	return strings.Join(fields[:min(3, len(fields))], ", ")
}

func (s *scene) proc(name string) string {
	return filepath.Join("/proc", strconv.Itoa(s.driver.PID()), name)
}

// mostMemory is what the driver may need.
const mostMemory = 64 * volume.MiB

// memory notes what the driver's memory is now and was at most (proc(5),
// VmRSS and VmHWM).
func (s *scene) memory(when string) {
	s.t.Helper()
	text, err := os.ReadFile(s.proc("status"))
	s.must(err)
	var now, peak int64
	for line := range strings.Lines(string(text)) {
		if _, err := fmt.Sscanf(line, "VmRSS: %d kB", &now); err == nil {
			continue
		}
		_, _ = fmt.Sscanf(line, "VmHWM: %d kB", &peak) // most lines are others
	}
	if now == 0 || peak == 0 {
		s.t.Fatalf("no memory in %s", text)
	}
	const kB = 1024
	have := fmt.Sprintf("%s, at most %s", inMiB(volume.Bytes(now*kB)), inMiB(volume.Bytes(peak*kB)))
	s.aim("resident memory "+when, "below "+inMiB(mostMemory), have, volume.Bytes(peak*kB) < mostMemory)
}

func inMiB(n volume.Bytes) string { return fmt.Sprintf("%.1f MiB", float64(n)/float64(volume.MiB)) }

// cpu is the time that the driver has spent on processors, in whole ticks of 10
// ms (proc(5), utime and stime).
func (s *scene) cpu() time.Duration {
	s.t.Helper()
	text, err := os.ReadFile(s.proc("stat"))
	s.must(err)
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	const utime, stime, tick = 11, 12, 10 * time.Millisecond
	var sum time.Duration
	for _, f := range []string{fields[utime], fields[stime]} {
		n, err := strconv.Atoi(f)
		s.must(err)
		sum += time.Duration(n) * tick
	}
	return sum
}
