package main

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/holdfast-csi/holdfast/pkg/cluster"
)

// An API server that gives one answer and then none.
func TestAClaimThatRunsOutOfTimeSaysWhatTheServerHadSaid(t *testing.T) {
	var asked atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1) == 1 {
			http.Error(w, "etcd has no leader", http.StatusInternalServerError)
			return
		}
		_, _ = io.Copy(io.Discard, r.Body) // only then is it seen that the caller has gone
		<-r.Context().Done()
	}))
	defer server.Close()
	client, err := cluster.New(&rest.Config{Host: server.URL}, cluster.Pod{Namespace: "holdfast-system", Name: "a"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), claimInterval+2*time.Second)
	defer cancel()
	err = claim(ctx, client, "node-1", slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), "etcd has no leader") || asked.Load() < 2 {
		t.Errorf("after %d requests: %v", asked.Load(), err)
	}
}
