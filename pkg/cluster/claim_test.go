package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func TestTheFirstNodeGetsTheClaimAndKeepsIt(t *testing.T) {
	s := newAPIServer(t)
	for range 3 {
		if err := s.client("a").ClaimNode(t.Context(), "node-1"); err != nil {
			t.Fatal(err)
		}
	}
	lease := s.leases[LeaseName]
	if lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity != "node-1" || lease.Spec.LeaseDurationSeconds != nil {
		t.Errorf("%+v", lease.Spec)
	}
}

func TestASecondNodeIsToldWhoHasTheClaimAndHowToReleaseIt(t *testing.T) {
	s := newAPIServer(t)
	if err := s.client("a").ClaimNode(t.Context(), "node-1"); err != nil {
		t.Fatal(err)
	}
	err := s.client("b").ClaimNode(t.Context(), "node-2")
	if !errors.Is(err, volume.ErrInUse) {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{"node-1", "node-2", "kubectl -n holdfast-system delete lease holdfast-single-node"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q: %v", want, err)
		}
	}
	s.set(func() { delete(s.leases, LeaseName) })
	if err := s.client("b").ClaimNode(t.Context(), "node-2"); err != nil {
		t.Errorf("a claim that was given back is not to be had: %v", err)
	}
}

func TestOfManyNodesOneGetsTheClaim(t *testing.T) {
	s := newAPIServer(t)
	var group sync.WaitGroup
	var winners atomic.Int32
	for i := range 8 {
		node := fmt.Sprintf("node-%d", i)
		client := s.client(node)
		group.Go(func() {
			err := client.ClaimNode(t.Context(), node)
			if err == nil {
				winners.Add(1)
			} else if !errors.Is(err, volume.ErrInUse) {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if winners.Load() != 1 {
		t.Errorf("%d nodes have the claim", winners.Load())
	}
}

func TestALeaseWithoutHolderIsNobodys(t *testing.T) {
	s := newAPIServer(t)
	if err := s.client("a").ClaimNode(t.Context(), "node-1"); err != nil {
		t.Fatal(err)
	}
	s.set(func() {
		l := s.leases[LeaseName]
		l.Spec.HolderIdentity = nil
		s.leases[LeaseName] = l
	})
	if err := s.client("a").ClaimNode(t.Context(), "node-1"); !errors.Is(err, volume.ErrInUse) || !strings.Contains(err.Error(), "delete lease") {
		t.Errorf("got %v", err)
	}
}

func TestWhatMayPassIsToldFromWhatWillNot(t *testing.T) {
	s := newAPIServer(t)
	for status, want := range map[int]error{
		http.StatusForbidden:           volume.ErrPrecondition,
		http.StatusUnauthorized:        volume.ErrUnavailable,
		http.StatusInternalServerError: volume.ErrUnavailable,
	} {
		s.set(func() { s.away = status })
		if err := s.client("a").ClaimNode(t.Context(), "node-1"); !errors.Is(err, want) {
			t.Errorf("status %d: got %v, want %v", status, err, want)
		}
	}
	s.server.Close()
	if err := s.client("a").ClaimNode(t.Context(), "node-1"); !errors.Is(err, volume.ErrUnavailable) {
		t.Errorf("nobody listens: got %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := s.client("a").ClaimNode(ctx, "node-1"); err == nil {
		t.Error("a claim without an API server")
	}
}

func TestAClaimThatIsTriedForLongStillHearsTheCause(t *testing.T) {
	s := newAPIServer(t)
	s.set(func() { s.away = http.StatusInternalServerError })
	client := s.client("a")
	ctx, cancel := context.WithTimeout(t.Context(), requestEvery)
	defer cancel()
	for i := range 2 * requestBurst {
		if err := client.ClaimNode(ctx, "node-1"); err == nil || !strings.Contains(err.Error(), "the test says") {
			t.Fatalf("request %d: %v", i+1, err)
		}
	}
}

func TestAnAnswerThatIsLostDoesNotCostTheClaim(t *testing.T) {
	s := newAPIServer(t)
	s.set(func() { s.lose = true })
	if err := s.client("a").ClaimNode(t.Context(), "node-1"); !errors.Is(err, volume.ErrUnavailable) {
		t.Fatalf("got %v", err)
	}
	if err := s.client("a").ClaimNode(t.Context(), "node-1"); err != nil {
		t.Error(err)
	}
}

func TestPodsAreNamespaceAndName(t *testing.T) {
	if p, err := ParsePod("holdfast-system/holdfast-abc"); err != nil || p.Namespace != "holdfast-system" || p.Name != "holdfast-abc" {
		t.Errorf("%+v, %v", p, err)
	}
	for _, bad := range []string{"", "/", "a/", "/b", "a", "a/b/c"} {
		if _, err := ParsePod(bad); !errors.Is(err, volume.ErrInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestOutsideAPodThereIsNoClient(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	if _, err := InCluster(Pod{Namespace: namespace, Name: "a"}); !errors.Is(err, volume.ErrPrecondition) {
		t.Errorf("got %v", err)
	}
	if _, err := New(&rest.Config{Host: "http://[::1"}, Pod{}); err == nil {
		t.Error("a client for an address that is none")
	}
}
