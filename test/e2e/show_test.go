package e2e

import (
	"context"
	"time"
)

// show prints what a person would look at first: the objects of the scene, the
// events, and what the driver and the sidecars wrote since the test began.
func (s *scene) show(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	since := "--since-time=" + s.began.UTC().Format(time.RFC3339)
	for _, args := range [][]string{
		{"get", "pods,pvc,volumesnapshots", "-n", s.ns, "-o", "wide"},
		{"get", "pv,volumesnapshotcontents"},
		{"get", "events", "-n", s.ns, "--sort-by=.lastTimestamp"},
		{"get", "pods", "-n", driverNamespace, "-o", "wide"},
		{"get", "events", "-n", driverNamespace, "--sort-by=.lastTimestamp"},
		{"logs", "-n", s.ns, "--all-containers", "--prefix", "--max-log-requests=20", "--tail=50", "--ignore-errors", "--selector=" + appLabel},
		{"logs", "-n", driverNamespace, "-l", "app.kubernetes.io/name=holdfast", "--all-containers", "--prefix", "--max-log-requests=20", "--tail=-1", "--ignore-errors", since},
	} {
		out, err := s.cluster.Kubectl(ctx, args...)
		if err != nil {
			s.t.Logf("kubectl %v: %v", args, err)
		}
		s.t.Logf("kubectl %v\n%s", args, out)
	}
}
