package e2e

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	snapclient "github.com/kubernetes-csi/external-snapshotter/client/v8/clientset/versioned"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/holdfast-csi/holdfast/test/cluster"
)

const (
	driverName      = "csi.holdfast.dev"
	driverNamespace = "holdfast-system"

	// aWhile bounds each wait for Kubernetes to do something. It takes seconds; a
	// loaded machine with two cores may take much longer.
	aWhile = 3 * time.Minute
)

// access is how a test reaches the cluster.
type access struct {
	cluster *cluster.Cluster
	config  *rest.Config
	kube    kubernetes.Interface
	snap    snapclient.Interface
}

func open() (access, error) {
	c, err := cluster.Open()
	if err != nil {
		return access{}, err
	}
	config, err := c.RESTConfig()
	if err != nil {
		return access{}, err
	}
	config.QPS, config.Burst = 50, 100
	a := access{cluster: c, config: config}
	if a.kube, err = kubernetes.NewForConfig(config); err != nil {
		return access{}, err
	}
	a.snap, err = snapclient.NewForConfig(config)
	return a, err
}

// scene is one test's namespace and what it needs to act in it.
type scene struct {
	access
	t     *testing.T
	ctx   context.Context
	ns    string // also the prefix of what has no namespace
	began time.Time
	trail *trail
}

// openFor skips the test if there is no cluster to run it on.
func openFor(t *testing.T) access {
	t.Helper()
	if os.Getenv(enabled) == "" {
		t.Skipf("it needs a cluster with Holdfast: set %s=1 after make cluster, or run make e2e", enabled)
	}
	a, err := open()
	if err != nil {
		t.Fatalf("open the cluster: %v", err)
	}
	return a
}

// newScene skips the test if there is no cluster to run it on. The scene ends
// with the test: see [scene.end].
func newScene(t *testing.T) *scene {
	t.Helper()
	a := openFor(t)
	s := &scene{access: a, t: t, ctx: t.Context(), began: time.Now()}
	ns, err := s.kube.CoreV1().Namespaces().Create(s.ctx, &corev1.Namespace{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "e2e-" + label(t.Name()) + "-"},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatalf("make the namespace of the test: %v", err)
	}
	s.ns = ns.Name
	s.trail = follow(s.access, s.ns)
	t.Cleanup(s.end)
	// A pod is refused before its namespace has this.
	await(s, aWhile, one(s.kube.CoreV1().ServiceAccounts(s.ns), "default"), "is there",
		func(*corev1.ServiceAccount) bool { return true })
	return s
}

var (
	camel       = regexp.MustCompile(`([a-z0-9])([A-Z])`)
	notInALabel = regexp.MustCompile(`[^a-z0-9]+`)
)

// label makes a short name for a namespace from that of a test.
func label(test string) string {
	name := camel.ReplaceAllString(strings.TrimPrefix(test, "Test"), "$1-$2")
	name = notInALabel.ReplaceAllString(strings.ToLower(name), "-")
	return strings.Trim(name[:min(len(name), 40)], "-")
}

// must ends the test on an error.
func (s *scene) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// step says in the test's output what comes next, and when.
func (s *scene) step(format string, args ...any) {
	s.t.Helper()
	s.t.Logf("%6.1fs %s", time.Since(s.began).Seconds(), fmt.Sprintf(format, args...))
}

// end removes the scene, and fails the test if anything of it stays. It shows what
// the cluster looks like before that, if the test has failed, or else after it.
func (s *scene) end() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*aWhile)
	defer cancel()
	failed := s.t.Failed()
	if failed {
		s.show(ctx)
	}
	if err := s.remove(ctx); err != nil {
		s.t.Errorf("remove what the test made: %v", err)
		if !failed {
			s.show(ctx)
		}
	}
}
