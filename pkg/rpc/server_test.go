package rpc

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func TestVolumeIsCreatedAndDeletedThroughTheSocket(t *testing.T) {
	d := newMemoryDriver()
	r := serve(t, d, nil)
	created, err := r.controller.CreateVolume(t.Context(), &csi.CreateVolumeRequest{
		Name: "pvc-1", CapacityRange: &csi.CapacityRange{RequiredBytes: 1 << 30},
	})
	if err != nil {
		t.Fatal(err)
	}
	if id := created.GetVolume().GetVolumeId(); id != volumeID("pvc-1") || !d.has(id) {
		t.Errorf("created %q, driver has %v", id, d.volumes)
	}
	if _, err := r.controller.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: volumeID("pvc-1")}); err != nil {
		t.Fatal(err)
	}
	if d.has(volumeID("pvc-1")) {
		t.Error("still there")
	}
}

func TestErrorHasItsCodeAndNoDetails(t *testing.T) {
	d := newMemoryDriver()
	d.during = func(_ context.Context, req any) error {
		if r, ok := req.(*csi.CreateVolumeRequest); ok {
			return fmt.Errorf("create volume %q: %w", r.GetName(), volume.ErrNoSpace)
		}
		return nil
	}
	r := serve(t, d, nil)
	// The driver returns a response with its error; the call must not.
	_, err := r.controller.CreateVolume(t.Context(), &csi.CreateVolumeRequest{Name: "pvc-1"})
	s := status.Convert(err)
	if s.Code() != codes.ResourceExhausted || s.Message() != `create volume "pvc-1": no space in pool` || len(s.Details()) != 0 {
		t.Errorf("got %v %q with details %v", s.Code(), s.Message(), s.Details())
	}
}

func TestMethodThatTheDriverLacksIsUnimplemented(t *testing.T) {
	r := serve(t, newMemoryDriver(), nil)
	_, err := r.controller.ControllerModifyVolume(t.Context(), &csi.ControllerModifyVolumeRequest{VolumeId: "x"})
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("got %v", err)
	}
}

func TestPanicIsInternalAndTheServerLives(t *testing.T) {
	d := newMemoryDriver()
	d.during = func(_ context.Context, req any) error {
		switch req.(type) {
		case *csi.CreateVolumeRequest, *csi.NodeGetVolumeStatsRequest:
			panic("index out of range")
		}
		return nil
	}
	r := serve(t, d, nil)
	_, inOperation := r.controller.CreateVolume(t.Context(), &csi.CreateVolumeRequest{Name: "pvc-1"})
	_, inRead := r.node.NodeGetVolumeStats(t.Context(), &csi.NodeGetVolumeStatsRequest{VolumeId: "x"})
	for _, err := range []error{inOperation, inRead} {
		if status.Code(err) != codes.Internal || !strings.Contains(err.Error(), "index out of range") {
			t.Errorf("got %v", err)
		}
	}
	for _, method := range []string{"CreateVolume", "NodeGetVolumeStats"} {
		lines := r.log.lines(t, method)
		if len(lines) != 1 || !strings.Contains(fmt.Sprint(lines[0][KeyStack]), "memoryDriver") || lines[0]["level"] != "ERROR" {
			t.Errorf("log of %s: %v", method, lines)
		}
	}
	scrape := httptest.NewRecorder()
	r.metrics.Handler().ServeHTTP(scrape, httptest.NewRequest("GET", "/", nil))
	for _, method := range []string{"Controller/CreateVolume", "Node/NodeGetVolumeStats"} {
		if want := `grpc_status_code="Internal",method_name="/csi.v1.` + method + `"} 1`; !strings.Contains(scrape.Body.String(), want) {
			t.Errorf("the metrics have no %s", want)
		}
	}
	// The locks of the operation that panicked are free.
	if _, err := r.controller.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: volumeID("pvc-1")}); err != nil {
		t.Error(err)
	}
}

func TestHugeStringsAreRefusedAndTheServerLives(t *testing.T) {
	d := newMemoryDriver()
	r := serve(t, d, nil)
	for _, c := range []struct {
		name string
		size int
		want codes.Code
	}{
		{"5 MB", 5 << 20, codes.InvalidArgument},
		{"more than a message may have", 20 << 20, codes.ResourceExhausted},
	} {
		_, err := r.controller.CreateVolume(t.Context(), &csi.CreateVolumeRequest{Name: strings.Repeat("a", c.size)})
		if status.Code(err) != c.want {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
		if len(err.Error()) > 1000 {
			t.Errorf("%s: the error has %d bytes", c.name, len(err.Error()))
		}
	}
	// An id names nothing if it is too long; that is for the driver to say.
	if _, err := r.controller.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: strings.Repeat("a", 5<<20)}); err != nil {
		t.Errorf("delete of an unknown id: %.200v", err)
	}
	if len(r.log.String()) > 20_000 {
		t.Errorf("the log has %d bytes", len(r.log.String()))
	}
	if d.count("CreateVolume") != 0 {
		t.Error("the driver was called")
	}
}

// rawCodec sends bytes as they are and ignores the answer.
type rawCodec struct{}

func (rawCodec) Marshal(v any) ([]byte, error) { return v.([]byte), nil }
func (rawCodec) Unmarshal([]byte, any) error   { return nil }
func (rawCodec) Name() string                  { return "proto" }

func TestRequestThatCannotBeDecodedIsInvalidArgument(t *testing.T) {
	d := newMemoryDriver()
	r := serve(t, d, nil)
	for name, body := range map[string][]byte{
		"not UTF-8":       {0x0a, 0x02, 0xff, 0xfe}, // field 1, name
		"not protobuf":    {0xff},
		"cut in a string": {0x0a, 0x7f, 'a'},
	} {
		err := r.conn.Invoke(t.Context(), csi.Controller_CreateVolume_FullMethodName, body, &body, grpc.ForceCodec(rawCodec{}))
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if d.count("CreateVolume") != 0 {
		t.Error("the driver was called")
	}
	if lines := r.log.lines(t, "CreateVolume"); len(lines) != 3 || lines[0][KeyCode] != "InvalidArgument" {
		t.Errorf("log: %v", lines)
	}
}

func TestDriverSeesTheDeadlineOfItsOperationAndNothingOfTheCaller(t *testing.T) {
	d := newMemoryDriver()
	type seen struct {
		remaining time.Duration
		metadata  bool
	}
	calls := make(chan seen, 2)
	d.during = func(ctx context.Context, req any) error {
		if _, ok := req.(*csi.ProbeRequest); ok {
			return nil
		}
		deadline, _ := ctx.Deadline()
		_, ok := metadata.FromIncomingContext(ctx)
		calls <- seen{time.Until(deadline), ok}
		return nil
	}
	r := serve(t, d, func(c *Config) { c.OperationTimeout = time.Hour })
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "caller")
	if _, err := r.controller.CreateVolume(ctx, &csi.CreateVolumeRequest{Name: "a"}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.node.NodeGetVolumeStats(ctx, &csi.NodeGetVolumeStatsRequest{VolumeId: "a"}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if s := <-calls; s.remaining < 59*time.Minute || s.remaining > time.Hour || s.metadata {
			t.Errorf("the driver saw %+v", s)
		}
	}
}

func TestReadEndsWithItsCaller(t *testing.T) {
	d := newMemoryDriver()
	reading := make(chan struct{})
	ended := make(chan error, 1)
	d.during = func(ctx context.Context, req any) error {
		if _, ok := req.(*csi.NodeGetVolumeStatsRequest); ok {
			close(reading)
			<-ctx.Done()
			ended <- ctx.Err()
			return ctx.Err()
		}
		return nil
	}
	r := serve(t, d, nil)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-reading
		cancel()
	}()
	_, err := r.node.NodeGetVolumeStats(ctx, &csi.NodeGetVolumeStatsRequest{VolumeId: "a"})
	if status.Code(err) != codes.Canceled {
		t.Errorf("got %v", err)
	}
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the driver saw %v", err)
	}
}

func TestWorkOutlivesItsCallerAndARetryJoinsIt(t *testing.T) {
	d := newMemoryDriver()
	g := newGate()
	d.during = g.pass
	r := serve(t, d, nil)
	request := &csi.CreateVolumeRequest{Name: "pvc-1", Secrets: map[string]string{"token": "first"}}

	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := r.controller.CreateVolume(ctx, request); status.Code(err) != codes.DeadlineExceeded {
		t.Fatalf("got %v", err)
	}
	request.Secrets["token"] = "refreshed"
	answer := make(chan error, 1)
	go func() {
		_, err := r.controller.CreateVolume(t.Context(), request)
		answer <- err
	}()
	eventually(t, "the first caller left and the second one joined", func() bool {
		return len(r.log.lines(t, "CreateVolume")) == 1 && r.callers() == 1
	})
	close(g.open)
	if err := <-answer; err != nil {
		t.Error(err)
	}
	if d.count("CreateVolume") != 1 {
		t.Errorf("the driver ran %d times", d.count("CreateVolume"))
	}
}

func TestOperationThatEndsWithoutCallersIsLogged(t *testing.T) {
	d := newMemoryDriver()
	g := newGate()
	d.during = g.pass
	r := serve(t, d, nil)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-g.entered
		cancel()
	}()
	_, err := r.controller.CreateVolume(ctx, &csi.CreateVolumeRequest{Name: "pvc-1"})
	if status.Code(err) != codes.Canceled {
		t.Fatal(err)
	}
	eventually(t, "a line for the caller", func() bool { return len(r.log.lines(t, "CreateVolume")) == 1 })
	close(g.open)
	eventually(t, "a line for the operation", func() bool { return len(r.log.lines(t, "CreateVolume")) == 2 })
	lines := r.log.lines(t, "CreateVolume")
	if lines[0][KeyCode] != "Canceled" || lines[1][KeyCode] != "OK" || lines[1]["msg"] == "call" {
		t.Errorf("log: %v", lines)
	}
	if !d.has(volumeID("pvc-1")) {
		t.Error("the volume was not created")
	}
}

func TestStopAnswersCallsInFlightAndRefusesNewOnes(t *testing.T) {
	d := newMemoryDriver()
	g := newGate()
	d.during = g.pass
	r := serve(t, d, nil)
	answer := make(chan error, 1)
	go func() {
		_, err := r.controller.CreateVolume(t.Context(), &csi.CreateVolumeRequest{Name: "pvc-1"})
		answer <- err
	}()
	<-g.entered
	r.stop()
	eventually(t, "the socket is gone", func() bool {
		_, err := os.Lstat(r.socket)
		return errors.Is(err, os.ErrNotExist)
	})
	eventually(t, "new calls are refused", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		_, err := r.identity.Probe(ctx, &csi.ProbeRequest{})
		return err != nil
	})
	close(g.open)
	if err := <-answer; err != nil {
		t.Errorf("the call in flight: %v", err)
	}
	<-r.stopped
	if r.err != nil {
		t.Error(r.err)
	}
}

func TestStopWaitsForAnOperationWhoseCallerLeft(t *testing.T) {
	d := newMemoryDriver()
	g := newGate()
	d.during = g.pass
	r := serve(t, d, nil)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-g.entered
		cancel()
	}()
	if _, err := r.controller.CreateVolume(ctx, &csi.CreateVolumeRequest{Name: "pvc-1"}); err == nil {
		t.Fatal("answered")
	}
	r.stop()
	select {
	case <-r.stopped:
		t.Fatal("stopped while an operation was running")
	case <-time.After(200 * time.Millisecond):
	}
	if !strings.Contains(r.log.String(), `stopping: no new calls","waiting":"CreateVolume of \"pvc-1\"`) {
		t.Errorf("the log does not say what is waited for:\n%s", r.log)
	}
	close(g.open)
	<-r.stopped
	if r.err != nil {
		t.Error(r.err)
	}
	if !d.has(volumeID("pvc-1")) {
		t.Error("the volume was not created")
	}
}

func TestStopEndsOperationsAfterTheGracePeriod(t *testing.T) {
	d := newMemoryDriver()
	entered := make(chan struct{})
	d.during = func(ctx context.Context, req any) error {
		if _, ok := req.(*csi.CreateVolumeRequest); ok {
			close(entered)
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	}
	r := serve(t, d, func(c *Config) { c.Grace = 50 * time.Millisecond })
	answer := make(chan error, 1)
	go func() {
		_, err := r.controller.CreateVolume(t.Context(), &csi.CreateVolumeRequest{Name: "pvc-1"})
		answer <- err
	}()
	<-entered
	r.stop()
	if err := <-answer; status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "stopping") {
		t.Errorf("the call in flight: %v", err)
	}
	<-r.stopped
	if r.err != nil {
		t.Error(r.err)
	}
}

func TestStopNamesOperationsThatDoNotEnd(t *testing.T) {
	d := newMemoryDriver()
	g := newGate()
	d.during = g.pass
	r := serve(t, d, func(c *Config) { c.Grace = 50 * time.Millisecond })
	defer close(g.open)
	go func() {
		_, _ = r.controller.CreateVolume(context.Background(), &csi.CreateVolumeRequest{Name: "pvc-1"})
	}()
	<-g.entered
	r.stop()
	<-r.stopped
	if r.err == nil || !strings.Contains(r.err.Error(), `CreateVolume of "pvc-1"`) {
		t.Errorf("got %v", r.err)
	}
}
