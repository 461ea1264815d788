package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/mount"
)

// longestGap is how long a writer may wait for one record of 4 KiB to be on the
// disk while somebody disturbs the driver: less than a frozen filesystem would stand.
// The machine of a test is slow and busy.
const longestGap = 6 * time.Second

// writer is a pod that writes a journal to a volume all the time.
type writer struct {
	*pod
	claim string
	where string // dataDir, or dataDevice
	// held is what the volume was to the kernel when the pod had started.
	held holding
}

// writers starts one writer on each kind of volume.
func (s *scene) writers() []*writer {
	s.t.Helper()
	s.claim(newClaim("ext4", classExt4, small))
	s.claim(newClaim("xfs", classXFS, smallXFS))
	s.claim(newBlockClaim("block", classExt4, "256Mi"))
	found := []*writer{
		{pod: s.create(journaling("ext4", "ext4")), claim: "ext4", where: dataDir},
		{pod: s.create(journaling("xfs", "xfs")), claim: "xfs", where: dataDir},
		{pod: s.create(journalingOnDevice("block", "block")), claim: "block", where: dataDevice},
	}
	for _, w := range found {
		w.pod.await("runs", running)
		w.goesOn(5)
		w.held = w.holding()
	}
	return found
}

// journalingOnDevice is like journaling, with the claim as a device.
func journalingOnDevice(name, claim string) *corev1.Pod {
	p := idleOnDevice(name, claim)
	p.Spec.Containers[0].Command = []string{workloadProgram, "journal", dataDevice}
	return p
}

// holding is what a volume is to the kernel. Anything in it changes if the volume
// is unmounted, detached, or given to another process.
type holding struct {
	PID    int    // of the process that writes
	Pod    string // the mount that it sees, as a line of mountinfo; or the device
	Loop   loop.Info
	Mounts []mount.Info // of the node
}

// holding asks the kernel of the node.
func (w *writer) holding() holding {
	s := w.s
	s.t.Helper()
	pid, err := s.cluster.ContainerPID(s.ctx, s.ns, w.name, mainContainer)
	s.must(err)
	h := holding{PID: pid}
	var st unix.Stat_t
	s.must(unix.Stat(fmt.Sprintf("/proc/%d/root%s", pid, w.where), &st))
	device := st.Dev
	if w.where == dataDevice {
		device = st.Rdev
		h.Pod = fmt.Sprintf("device %d:%d", unix.Major(device), unix.Minor(device))
	} else {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
		s.must(err)
		for line := range strings.Lines(string(text)) {
			if fields := strings.Fields(line); len(fields) > 4 && fields[4] == w.where {
				h.Pod = line
			}
		}
	}
	loops, err := loop.List()
	s.must(err)
	for _, l := range loops {
		if unix.Mkdev(l.Major, l.Minor) == device {
			h.Loop = l
			// For people only, and other once the driver's mount namespace is gone.
			h.Loop.BackingPath = ""
		}
	}
	pv := s.volumeOf(w.claim)
	mounts, err := mount.List()
	s.must(err)
	for _, m := range mounts {
		if unix.Mkdev(m.Major, m.Minor) == device || strings.Contains(m.Path, pv.Name) {
			h.Mounts = append(h.Mounts, m)
		}
	}
	if h.Pod == "" || h.Loop.Tag == "" || len(h.Mounts) < 1 {
		s.t.Fatalf("the volume of pod %s is not found on the node: %+v", w.name, h)
	}
	return h
}

// undisturbed does something to the driver while the writers write, and demands
// that none of them had to wait for long, and that their volumes are untouched.
func (s *scene) undisturbed(writers []*writer, what string, do func()) {
	s.t.Helper()
	s.step("%s", what)
	for _, w := range writers {
		w.progress() // begins to measure anew
	}
	start := time.Now()
	do()
	took := time.Since(start)
	for _, w := range writers {
		gap := w.gapUntil(20)
		s.step("%s: took %s, longest gap of writer %s: %s", what, took.Round(time.Millisecond), w.name, gap.Round(time.Millisecond))
		if gap > longestGap {
			s.t.Errorf("%s: writer %s got no record on the disk for %s, want %s at most", what, w.name, gap, longestGap)
		}
		if diff := cmp.Diff(w.held, w.holding()); diff != "" {
			s.t.Errorf("%s: the volume of writer %s is not as it was (-before +after):\n%s", what, w.name, diff)
		}
	}
}

// gapUntil waits for n more records, and returns the longest time between two
// since the journal was last asked.
func (w *writer) gapUntil(n uint64) time.Duration {
	w.s.t.Helper()
	start := w.progress()
	gap := start.Stall
	w.s.until(aWhile, fmt.Sprintf("writer %s has %d more records than %d", w.name, n, start.Records), func() bool {
		now := w.progress()
		gap = max(gap, now.Stall)
		return now.Records >= start.Records+n
	})
	return gap
}

// finish stops the writer and demands that it had no error, and that another pod
// finds everything that it was told is on the disk.
func (w *writer) finish() {
	s := w.s
	s.t.Helper()
	written := w.progress()
	w.stop()
	w.pod.delete()
	w.found(written.Records)
}

// found has a new pod look for the first journal of a writer that is gone.
func (w *writer) found(records uint64) {
	s := w.s
	s.t.Helper()
	reader := idle(w.name+"-reader", w.claim)
	if w.where == dataDevice {
		reader = idleOnDevice(w.name+"-reader", w.claim)
	}
	p := s.run(reader)
	name := "journal-1"
	if w.where == dataDevice {
		name = filepath.Base(dataDevice)
	}
	if n := p.journals(w.where)[name]; n < records {
		s.t.Errorf("writer %s had %d records on the disk, %d are there", w.name, records, n)
	}
	p.delete()
}
