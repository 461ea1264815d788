package cluster

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// apiServer is an API server that has leases and events, and nothing else. It
// keeps what it is told, answers as the real one does, and can be away.
type apiServer struct {
	t      *testing.T
	server *httptest.Server

	mu       sync.Mutex
	leases   map[string]coordinationv1.Lease
	events   map[string]corev1.Event
	requests []string // method and resource
	away     int      // the status of every answer; 0 while it works
	lose     bool     // the answer to the next creation
}

const namespace = "holdfast-system"

func newAPIServer(t *testing.T) *apiServer {
	s := &apiServer{t: t, leases: map[string]coordinationv1.Lease{}, events: map[string]corev1.Event{}}
	s.server = httptest.NewServer(s)
	t.Cleanup(s.server.Close)
	return s
}

func (s *apiServer) client(pod string) *Client {
	s.t.Helper()
	c, err := New(&rest.Config{Host: s.server.URL}, Pod{Namespace: namespace, Name: pod, UID: "uid-1", Node: "node-1"})
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	resource, name := "", ""
	for _, prefix := range []string{"/apis/coordination.k8s.io/v1/namespaces/" + namespace + "/", "/api/v1/namespaces/" + namespace + "/"} {
		if rest, ok := strings.CutPrefix(r.URL.Path, prefix); ok {
			resource, name, _ = strings.Cut(rest, "/")
		}
	}
	s.requests = append(s.requests, r.Method+" "+resource)
	switch {
	case s.away != 0:
		s.fail(w, s.away, metav1.StatusReason(http.StatusText(s.away)))
	case resource == "leases" && r.Method == http.MethodPost:
		var l coordinationv1.Lease
		create(s, w, r, s.leases, &l, func() string { return l.Name })
	case resource == "leases" && r.Method == http.MethodGet:
		if l, ok := s.leases[name]; ok {
			s.answer(w, http.StatusOK, l)
			return
		}
		s.fail(w, http.StatusNotFound, metav1.StatusReasonNotFound)
	case resource == "events" && r.Method == http.MethodPost:
		var e corev1.Event
		create(s, w, r, s.events, &e, func() string { return e.Name })
	case resource == "events" && r.Method == http.MethodPatch:
		e, ok := s.events[name]
		if !ok {
			s.fail(w, http.StatusNotFound, metav1.StatusReasonNotFound)
			return
		}
		if err := json.NewDecoder(r.Body).Decode(&e); err != nil { // of a merge patch
			s.t.Error(err)
		}
		s.events[name] = e
		s.answer(w, http.StatusOK, e)
	default:
		s.t.Errorf("a request that this server does not know: %s %s", r.Method, r.URL)
		s.fail(w, http.StatusForbidden, metav1.StatusReasonForbidden)
	}
}

func create[T any](s *apiServer, w http.ResponseWriter, r *http.Request, have map[string]T, object *T, name func() string) {
	if err := json.NewDecoder(r.Body).Decode(object); err != nil {
		s.t.Error(err)
	}
	if _, ok := have[name()]; ok {
		s.fail(w, http.StatusConflict, metav1.StatusReasonAlreadyExists)
		return
	}
	have[name()] = *object
	if s.lose {
		s.lose = false
		s.fail(w, http.StatusGatewayTimeout, metav1.StatusReasonTimeout)
		return
	}
	s.answer(w, http.StatusCreated, *object)
}

func (s *apiServer) answer(w http.ResponseWriter, code int, object any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	if err := json.NewEncoder(w).Encode(object); err != nil {
		s.t.Log("a caller went away:", err)
	}
}

func (s *apiServer) fail(w http.ResponseWriter, code int, reason metav1.StatusReason) {
	s.answer(w, code, metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure,
		Code: int32(code), Reason: reason, Message: "the test says " + string(reason),
	})
}

// set changes the server while it runs.
func (s *apiServer) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

// all are the events that the server has, in order of their texts.
func (s *apiServer) all() []corev1.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.SortedFunc(maps.Values(s.events), func(a, b corev1.Event) int { return strings.Compare(a.Message, b.Message) })
}

func (s *apiServer) asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// eventually waits until something is so.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in time: %s", what)
		}
	}
}
