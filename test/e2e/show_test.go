package e2e

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// show prints what a person would look at first: the objects of the scene, the
// events, and what the driver and the sidecars wrote since the test began. Long
// texts lose their beginnings, so that the reason of the failure is not lost.
func (s *scene) show(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for _, args := range [][]string{
		{"get", "pods,pvc,volumesnapshots", "-n", s.ns, "-o", "wide"},
		{"get", "pv,volumesnapshotcontents"},
		{"get", "pods", "-n", driverNamespace, "-o", "wide"},
	} {
		out, err := s.cluster.Kubectl(ctx, args...)
		s.section("kubectl "+strings.Join(args, " "), 3<<10, out, err)
	}
	s.showEvents(ctx, s.ns)
	s.showEvents(ctx, driverNamespace)
	s.showLogs(ctx, s.ns, 1<<10)
	s.showLogs(ctx, driverNamespace, 3<<10)
}

// section prints the end of a text under a title.
func (s *scene) section(title string, most int, text string, err error) {
	if err != nil {
		text += "\n" + err.Error()
	}
	if cut := len(text) - most; cut > 0 {
		text = fmt.Sprintf("(%d bytes left out)\n%s", cut, text[cut:])
	}
	s.t.Logf("---- %s\n%s", title, strings.TrimSpace(text))
}

func (s *scene) showEvents(ctx context.Context, ns string) {
	list, err := s.kube.CoreV1().Events(ns).List(ctx, metav1.ListOptions{})
	if err != nil {
		s.section("events of "+ns, 0, "", err)
		return
	}
	when := func(e corev1.Event) time.Time {
		return cmp.Or(e.LastTimestamp.Time, e.EventTime.Time, e.CreationTimestamp.Time)
	}
	events := slices.DeleteFunc(list.Items, func(e corev1.Event) bool {
		// The cluster of the tests has no DNS, and kubelet says so all the time.
		return e.Reason == "MissingClusterDNS" || when(e).Before(s.began.Truncate(time.Second))
	})
	slices.SortStableFunc(events, func(a, b corev1.Event) int { return when(a).Compare(when(b)) })
	var text strings.Builder
	for _, e := range events {
		fmt.Fprintf(&text, "%s %s %s %s/%s: %s\n", when(e).Format(time.TimeOnly), e.Type, e.Reason,
			strings.ToLower(e.InvolvedObject.Kind), e.InvolvedObject.Name, e.Message)
	}
	s.section("events of "+ns, 6<<10, text.String(), nil)
}

// showLogs prints the logs of all containers of a namespace, and of those that
// ended before them.
func (s *scene) showLogs(ctx context.Context, ns string, most int) {
	pods, err := s.kube.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{})
	if err != nil {
		s.section("pods of "+ns, 0, "", err)
		return
	}
	since := metav1.NewTime(s.began)
	for _, p := range pods.Items {
		for _, c := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
			for _, previous := range []bool{true, false} {
				if previous && c.RestartCount == 0 {
					continue
				}
				text, err := s.kube.CoreV1().Pods(ns).GetLogs(p.Name, &corev1.PodLogOptions{
					Container: c.Name, Previous: previous, SinceTime: &since,
				}).DoRaw(ctx)
				if len(text) == 0 && err == nil {
					continue
				}
				title := fmt.Sprintf("log of %s/%s (restarted %d times, previous %t)", p.Name, c.Name, c.RestartCount, previous)
				s.section(title, most, withoutReads(string(text)), err)
			}
		}
	}
}

// withoutReads leaves out what the driver says about reads that went well.
func withoutReads(log string) string {
	var kept strings.Builder
	for line := range strings.Lines(log) {
		if !strings.Contains(line, "level=DEBUG") || !strings.Contains(line, "code=OK") {
			kept.WriteString(line)
		}
	}
	return kept.String()
}
