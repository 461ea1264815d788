package e2e

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// driverSelector chooses the driver's pod.
const driverSelector = "app.kubernetes.io/name=holdfast"

// driverPod is the one pod of the driver.
func (s *scene) driverPod() *corev1.Pod {
	s.t.Helper()
	pods, err := s.kube.CoreV1().Pods(driverNamespace).List(s.ctx, metav1.ListOptions{LabelSelector: driverSelector})
	s.must(err)
	if len(pods.Items) != 1 {
		s.t.Fatalf("there are %d pods with %s in %s, want 1", len(pods.Items), driverSelector, driverNamespace)
	}
	return &pods.Items[0]
}

// stayedUp demands that the driver's container in this pod was never started again.
// One slow answer may make it unready for a moment.
func (s *scene) stayedUp(driver *corev1.Pod) {
	s.t.Helper()
	now := await(s, aWhile, one(s.kube.CoreV1().Pods(driverNamespace), driver.Name), "is ready", running)
	if now.UID != driver.UID || restarts(now)[driverContainer] != 0 {
		s.t.Errorf("the driver's pod did not stay up:\n%s", asYAML(now))
	}
}

// calls says how often and how long a method of the driver was called.
type calls struct {
	count   int
	seconds float64
}

func (c calls) mean() time.Duration {
	if c.count == 0 {
		return 0
	}
	return time.Duration(c.seconds / float64(c.count) * float64(time.Second))
}

// sample is one line of the text format of Prometheus about the calls of a method.
var sample = regexp.MustCompile(`(?m)^csi_plugin_operations_seconds_(sum|count)\{[^}]*method_name="/csi\.v1\.[A-Za-z]+/([A-Za-z]+)"[^}]*\} (\S+)$`)

// callsOfDriver reads the driver's metrics, by method, through the API server's
// proxy. Calls that failed count too.
func (s *scene) callsOfDriver() map[string]calls {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, time.Minute)
	defer cancel()
	text, err := s.kube.CoreV1().RESTClient().Get().Namespace(driverNamespace).Resource("pods").
		Name(fmt.Sprintf("%s:%d", s.driverPod().Name, 9808)).SubResource("proxy").Suffix("metrics").DoRaw(ctx)
	s.must(err)
	found := map[string]calls{}
	for _, m := range sample.FindAllSubmatch(text, -1) {
		method := string(m[2])
		value, err := strconv.ParseFloat(string(m[3]), 64)
		s.must(err)
		c := found[method]
		if string(m[1]) == "sum" {
			c.seconds += value
		} else {
			c.count += int(value)
		}
		found[method] = c
	}
	if len(found) == 0 {
		s.t.Fatalf("the driver's metrics have no calls:\n%s", text)
	}
	return found
}
