package cluster

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

// running are Events that deliver to a server, with what they log.
type running struct {
	*Events
	stop func() // delivers what is left

	mu  sync.Mutex
	log bytes.Buffer
}

// Write makes running the destination of a log.
func (r *running) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.Write(p)
}

func (r *running) logged() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.String()
}

func run(t *testing.T, s *apiServer) *running {
	t.Helper()
	r := &running{}
	r.Events = s.client("holdfast-x").Events(EventsConfig{
		Redact:  func(text string) string { return strings.ReplaceAll(text, "secret", "***") },
		Logger:  slog.New(slog.NewTextHandler(r, nil)),
		Backoff: 10 * time.Millisecond,
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.Run(ctx)
	}()
	r.stop = func() {
		cancel()
		<-done
	}
	t.Cleanup(r.stop)
	return r
}

func TestAnEventNamesThePodAndHasNoSecret(t *testing.T) {
	s := newAPIServer(t)
	r := run(t, s)
	r.Send(Event{Warning: true, Reason: "PoolMissing", Text: "pool secret is gone"})
	eventually(t, "the event", func() bool { return len(s.all()) == 1 })
	got := s.all()[0]
	want := corev1.Event{
		InvolvedObject: corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: namespace, Name: "holdfast-x", UID: "uid-1"},
		Reason:         "PoolMissing", Message: "pool *** is gone", Type: "Warning", Count: 1,
		Source: corev1.EventSource{Component: "holdfast", Host: "node-1"}, ReportingController: "holdfast", ReportingInstance: "holdfast-x",
	}
	if got.FirstTimestamp.IsZero() || got.Namespace != namespace {
		t.Errorf("%+v", got)
	}
	got.TypeMeta, got.ObjectMeta, got.FirstTimestamp, got.LastTimestamp = want.TypeMeta, want.ObjectMeta, want.FirstTimestamp, want.LastTimestamp
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("event (-want +got):\n%s", diff)
	}
}

func TestTheSameEventAgainRaisesACount(t *testing.T) {
	s := newAPIServer(t)
	r := run(t, s)
	same := Event{Reason: "PoolBack", Text: "back"}
	r.Send(same)
	eventually(t, "the event, and the answer", func() bool {
		r.Events.mu.Lock()
		defer r.Events.mu.Unlock()
		return len(r.records) == 1 && r.records[0].exists
	})
	for range 9 {
		r.Send(same)
	}
	r.stop()
	if all := s.all(); len(all) != 1 || all[0].Count != 10 || all[0].Type != "Normal" || all[0].Message != "back" {
		t.Errorf("%+v", all)
	}
	if asked := s.asked(); len(asked) != 2 {
		t.Errorf("nine repetitions took these requests: %v", asked)
	}
}

func TestAnEventThatTheServerForgotIsMadeAgain(t *testing.T) {
	s := newAPIServer(t)
	r := run(t, s)
	same := Event{Reason: "PoolMissing", Text: "away"}
	r.Send(same)
	eventually(t, "the event", func() bool { return len(s.all()) == 1 })
	s.set(func() { clear(s.events) })
	r.Send(same)
	r.stop()
	if all := s.all(); len(all) != 1 || all[0].Count != 2 {
		t.Errorf("%+v", all)
	}
}

func TestEventsOfATimeWithoutAPIServerAreDeliveredLater(t *testing.T) {
	s := newAPIServer(t)
	s.set(func() { s.away = http.StatusInternalServerError })
	r := run(t, s)
	r.Send(Event{Reason: "A", Text: "1"})
	r.Send(Event{Reason: "A", Text: "2"})
	eventually(t, "some tries", func() bool { return len(s.asked()) > 3 })
	s.set(func() { s.away = 0 })
	eventually(t, "both events", func() bool { return len(s.all()) == 2 })
	eventually(t, "a word about it", func() bool { return strings.Contains(r.logged(), "delivered again") })
	if n := strings.Count(r.logged(), "cannot be delivered"); n != 1 {
		t.Errorf("said %d times:\n%s", n, r.logged())
	}
}

func TestALostAnswerMakesNoSecondEvent(t *testing.T) {
	s := newAPIServer(t)
	s.set(func() { s.lose = true })
	r := run(t, s)
	r.Send(Event{Reason: "A", Text: "once"})
	eventually(t, "a second try", func() bool { return len(s.asked()) == 2 })
	r.stop()
	if all := s.all(); len(all) != 1 || all[0].Count != 1 {
		t.Errorf("%+v", all)
	}
}

func TestARefusedEventIsDroppedAndTheNextOneGoesOn(t *testing.T) {
	s := newAPIServer(t)
	s.set(func() { s.away = http.StatusForbidden })
	r := run(t, s)
	r.Send(Event{Reason: "A", Text: "refused"})
	eventually(t, "a word about it", func() bool { return strings.Contains(r.logged(), "refused and is dropped") })
	s.set(func() { s.away = 0 })
	r.Send(Event{Reason: "A", Text: "next"})
	eventually(t, "the next one", func() bool { return len(s.all()) == 1 })
	if got := s.all()[0].Message; got != "next" {
		t.Errorf("got %q", got)
	}
}

func TestSendNeverWaitsAndWhatIsKeptIsBounded(t *testing.T) {
	s := newAPIServer(t)
	s.set(func() { s.away = http.StatusInternalServerError })
	r := run(t, s)
	started := time.Now()
	for i := range 3 * maxRecords {
		r.Send(Event{Reason: "A", Text: fmt.Sprint(i)})
	}
	if took := time.Since(started); took > 20*time.Second {
		t.Errorf("sending took %s", took)
	}
	r.Events.mu.Lock()
	kept, dropped := len(r.records), r.dropped
	r.Events.mu.Unlock()
	if kept != maxRecords || dropped != 2*maxRecords {
		t.Errorf("%d kept, %d dropped", kept, dropped)
	}
	stopping := time.Now()
	r.stop()
	if took := time.Since(stopping); took > flushTime+time.Second {
		t.Errorf("stopping took %s", took)
	}
}

func TestAFloodIsLimitedInRate(t *testing.T) {
	s := newAPIServer(t)
	r := run(t, s)
	for i := range 2 * requestBurst {
		r.Send(Event{Reason: "A", Text: fmt.Sprint(i)})
	}
	eventually(t, "the burst", func() bool { return len(s.all()) >= requestBurst })
	time.Sleep(300 * time.Millisecond)
	if n := len(s.all()); n > requestBurst+1 {
		t.Errorf("%d events were made at once", n)
	}
}

func TestNewEventsTakeThePlaceOfOldOnesThatWereDelivered(t *testing.T) {
	r := (&Client{}).Events(EventsConfig{Redact: func(s string) string { return s }, Logger: slog.New(slog.DiscardHandler)})
	for i := range maxRecords {
		r.Send(Event{Text: fmt.Sprint(i)})
	}
	r.records[7].sent = 1
	r.Send(Event{Text: "new"})
	if len(r.records) != maxRecords || r.records[maxRecords-1].Text != "new" || r.dropped != 0 {
		t.Errorf("%d records, %d dropped", len(r.records), r.dropped)
	}
}

func TestALongTextIsCutBetweenCharacters(t *testing.T) {
	if got := shorten(strings.Repeat("ä", maxText)); len(got) > maxText || !strings.HasSuffix(got, "ä...") {
		t.Errorf("%d bytes, ends with %q", len(got), got[len(got)-8:])
	}
	if got := shorten("short"); got != "short" {
		t.Errorf("got %q", got)
	}
}

func TestWithoutAPodEventsAreDropped(t *testing.T) {
	var none *Events
	none.Send(Event{Text: "x"})
	none.Run(t.Context())
}
