// Package cluster is what the driver says to the Kubernetes API server: that this
// node has Holdfast's claim, and events about the driver's own pod.
//
// It promises that the driver never waits for the API server: events are queued,
// bounded, put together and limited in rate, and what cannot be delivered is
// dropped; the claim is taken by a command of its own before the driver starts.
// It needs no right outside the namespace of its pod, and there only: leases
// create and get, events create and patch. Where there are identity volumes, it needs
// the latter in the namespaces of their pods too.
//
// It watches nothing, reads no secret, and no decision about data depends on it.
package cluster

import (
	"errors"
	"fmt"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// Pod is the pod that this process runs in.
type Pod struct {
	Namespace, Name string
	// UID ties events to this life of the pod: without it, kubectl describe does
	// not show them. It may be empty.
	UID string
	// Node is the name of the node, for the source of events.
	Node string
}

// ParsePod reads NAMESPACE/NAME. Anything else is volume.ErrInvalid.
func ParsePod(text string) (Pod, error) {
	namespace, name, ok := strings.Cut(text, "/")
	if !ok || namespace == "" || name == "" || strings.Contains(name, "/") {
		return Pod{}, fmt.Errorf("%w: pod %q: want NAMESPACE/NAME", volume.ErrInvalid, text)
	}
	return Pod{Namespace: namespace, Name: name}, nil
}

// Client speaks to the API server for one pod.
type Client struct {
	pod    Pod
	core   rest.Interface
	leases rest.Interface
}

// requestTimeout bounds one request to the API server.
const requestTimeout = 10 * time.Second

// The rate of requests about events, whatever goes wrong on the node: this many at
// once, and one in so many seconds for ever.
const (
	requestBurst = 25
	requestEvery = 10 * time.Second
)

// InCluster is a Client with the service account of the pod that this process runs
// in. It asks the API server nothing yet. It is volume.ErrPrecondition outside a
// pod, or in one without a token.
func InCluster(pod Pod) (*Client, error) {
	cfg, err := rest.InClusterConfig()
	if err != nil {
		return nil, fmt.Errorf("%w: find the API server and the service account's token: %w; is automountServiceAccountToken off?", volume.ErrPrecondition, err)
	}
	return New(cfg, pod)
}

// New is a Client with a configuration of one's own, whose limits and timeout it
// replaces.
func New(cfg *rest.Config, pod Pod) (*Client, error) {
	cfg = rest.CopyConfig(cfg)
	cfg.Timeout = requestTimeout
	cfg.QPS, cfg.Burst = float32(1/requestEvery.Seconds()), requestBurst
	cfg.UserAgent = "holdfast"
	scheme := runtime.NewScheme()
	if err := errors.Join(corev1.AddToScheme(scheme), coordinationv1.AddToScheme(scheme)); err != nil {
		return nil, fmt.Errorf("register the API's types: %w", err)
	}
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	cfg.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	core, err := clientFor(cfg, "/api", corev1.SchemeGroupVersion)
	if err != nil {
		return nil, err
	}
	cfg.QPS = -1 // none: who claims sets the pace, and wants to hear why it is refused
	leases, err := clientFor(cfg, "/apis", coordinationv1.SchemeGroupVersion)
	if err != nil {
		return nil, err
	}
	return &Client{pod: pod, core: core, leases: leases}, nil
}

func clientFor(cfg *rest.Config, path string, gv schema.GroupVersion) (rest.Interface, error) {
	cfg = rest.CopyConfig(cfg)
	cfg.APIPath, cfg.GroupVersion = path, &gv
	client, err := rest.RESTClientFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("make a client for %s of %s: %w", gv, cfg.Host, err)
	}
	return client, nil
}
