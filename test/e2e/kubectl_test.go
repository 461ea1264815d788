package e2e

import (
	"context"
	"encoding/json"
	"regexp"
	"strings"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/backend/local"
)

// What a user types, and what a user reads.

// kubectl runs kubectl in the scene's namespace and returns all that it says. The
// test ends if it fails.
func (s *scene) kubectl(args ...string) string {
	s.t.Helper()
	out, err := s.cluster.Kubectl(s.ctx, append([]string{"--namespace=" + s.ns}, args...)...)
	if err != nil {
		s.t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// inDriver runs a command of the driver in its container, as docs/guides/pools.md
// says.
func (s *scene) inDriver(args ...string) (string, error) {
	s.t.Helper()
	return s.cluster.Kubectl(s.ctx, append([]string{"-n", driverNamespace, "exec", "daemonset/" + driverSet, "-c", driverContainer, "--", "/driver"}, args...)...)
}

// pools is what driver pool status says of each pool, by name. That a pool is away,
// which makes it end with status 1, is the caller's affair.
func (s *scene) pools() map[string]local.PoolStatus {
	s.t.Helper()
	out, err := s.inDriver("pool", "status", "--output=json")
	// What it says of its error comes before or after the list.
	start, end := strings.Index(out, "["), strings.LastIndex(out, "\n]")
	if start < 0 || end < start {
		s.t.Fatalf("driver pool status: %v\n%s", err, out)
	}
	var list []local.PoolStatus
	s.must(json.Unmarshal([]byte(out[start:end+2]), &list))
	found := map[string]local.PoolStatus{}
	for _, p := range list {
		found[p.Name] = p
	}
	return found
}

// says demands that a text, which a user reads, has each of these, which are
// regular expressions.
func (s *scene) says(what, text string, want ...string) {
	s.t.Helper()
	for _, w := range want {
		if !regexp.MustCompile(`(?s)` + w).MatchString(text) {
			s.t.Errorf("%s does not say %q:\n%s", what, w, text)
		}
	}
}

// metrics is what the driver serves to Prometheus, through the API server's proxy.
func (s *scene) metrics() string {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, time.Minute)
	defer cancel()
	text, err := s.kube.CoreV1().RESTClient().Get().Namespace(driverNamespace).Resource("pods").
		Name(s.driverPod().Name + ":9808").SubResource("proxy").Suffix("metrics").DoRaw(ctx)
	s.must(err)
	return string(text)
}

// sampleOf is the value of the first metric of this name with all these labels, as
// it is written; "" if there is none.
func sampleOf(metrics, name string, labels ...string) string {
	for line := range strings.Lines(metrics) {
		found, value, _ := strings.Cut(strings.TrimSpace(line), "} ")
		if !strings.HasPrefix(found, name+"{") {
			continue
		}
		all := true
		for _, l := range labels {
			all = all && strings.Contains(found, l)
		}
		if all {
			return value
		}
	}
	return ""
}

// reference demands that a table of a reference document has a row for a word, and
// returns the rest of that row.
func (s *scene) reference(path, word string) string {
	s.t.Helper()
	for line := range strings.Lines(s.read(path)) {
		if rest, ok := strings.CutPrefix(line, "| `"+word+"` |"); ok {
			return rest
		}
	}
	s.t.Errorf("%s has no row about %s", path, word)
	return ""
}
