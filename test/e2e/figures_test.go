package e2e

import (
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestTheDriversShareOfAStart measures how long it takes from a claim and its pod
// to the pod's start, and how much of that the driver is at work. It is not
// parallel: a machine that does something else would be measured too.
func TestTheDriversShareOfAStart(t *testing.T) {
	s := newScene(t)
	const starts = 10
	before := s.callsOfDriver()
	var took []time.Duration
	for i := range starts {
		name := fmt.Sprintf("app-%d", i)
		start := time.Now()
		s.runClaim(newClaim(name, classExt4, small))
		took = append(took, time.Since(start))
	}
	after := s.callsOfDriver()
	slices.Sort(took)
	median := took[len(took)/2]

	var share time.Duration
	var rows []string
	for _, method := range slices.Sorted(maps.Keys(after)) {
		c := calls{count: after[method].count - before[method].count, seconds: after[method].seconds - before[method].seconds}
		if c.count == 0 {
			continue
		}
		// What happens by the clock, and not for a start, is no part of one.
		part := slices.Contains([]string{"CreateVolume", "NodeStageVolume", "NodePublishVolume", "NodeGetCapabilities"}, method)
		if part {
			share += time.Duration(c.seconds / starts * float64(time.Second))
		}
		rows = append(rows, fmt.Sprintf("| %s | %d | %s | %s |", method, c.count, milliseconds(c.mean()), map[bool]string{true: "yes", false: "no"}[part]))
	}
	if share <= 0 || share >= median {
		t.Errorf("the driver was at work for %s in a start of %s", share, median)
	}
	text := fmt.Sprintf(`From a claim and its pod, made together, until the pod runs: %s median, %s fastest, %s slowest of %d starts, one after another.
The driver was at work for %s ms of one: %.1f %% of the median.

| call | in %d starts | mean, ms | part of a start |
| --- | --- | --- | --- |
%s
`, seconds(median), seconds(took[0]), seconds(took[len(took)-1]), starts, milliseconds(share), 100*share.Seconds()/median.Seconds(), starts, strings.Join(rows, "\n"))
	t.Log("\n" + text)
	if path := os.Getenv("HOLDFAST_E2E_FIGURES"); path != "" {
		version, err := s.kube.Discovery().ServerVersion()
		s.must(err)
		page := fmt.Sprintf("# From a claim to a running pod\n\nWritten by `make figures` on %s: Kubernetes %s, one node, %d cores, an ext4 of %s, nothing else at work.\n\n%s",
			time.Now().UTC().Format(time.DateOnly), version.GitVersion, runtime.NumCPU(), small, text)
		s.must(os.WriteFile(path, []byte(page), 0o644))
	}
}

func seconds(d time.Duration) string      { return fmt.Sprintf("%.2f s", d.Seconds()) }
func milliseconds(d time.Duration) string { return fmt.Sprintf("%.1f", float64(d.Microseconds())/1000) }
