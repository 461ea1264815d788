package rpc

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testPool = volume.PoolID("0123456789abcdef")

func volumeID(name string) string   { return string(volume.NewID(volume.KindVolume, testPool, name)) }
func snapshotID(name string) string { return string(volume.NewID(volume.KindSnapshot, testPool, name)) }

// memoryDriver is a small driver that keeps volumes in memory. It relies on the
// server for exclusion: its operations read, wait, and write.
type memoryDriver struct {
	csi.UnimplementedIdentityServer
	csi.UnimplementedControllerServer
	csi.UnimplementedNodeServer

	// during is called in the middle of each call.
	during func(ctx context.Context, req any) error

	mu      sync.Mutex
	volumes map[string]int64 // capacity by id
	runs    map[string]int   // calls that reached the driver, by method
}

func newMemoryDriver() *memoryDriver {
	return &memoryDriver{
		during:  func(context.Context, any) error { return nil },
		volumes: map[string]int64{}, runs: map[string]int{},
	}
}

func (d *memoryDriver) enter(ctx context.Context, method string, req any) error {
	d.mu.Lock()
	d.runs[method]++
	d.mu.Unlock()
	return d.during(ctx, req)
}

func (d *memoryDriver) count(method string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.runs[method]
}

func (d *memoryDriver) has(id string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, ok := d.volumes[id]
	return ok
}

func (d *memoryDriver) Probe(ctx context.Context, req *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	if err := d.enter(ctx, "Probe", req); err != nil {
		return nil, err
	}
	return &csi.ProbeResponse{Ready: wrapperspb.Bool(true)}, nil
}

func (d *memoryDriver) CreateVolume(ctx context.Context, req *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	id := volumeID(req.GetName())
	// Returned with an error too: the server must drop it.
	resp := &csi.CreateVolumeResponse{Volume: &csi.Volume{VolumeId: id, CapacityBytes: req.GetCapacityRange().GetRequiredBytes()}}
	if err := d.enter(ctx, "CreateVolume", req); err != nil {
		return resp, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.volumes[id] = resp.GetVolume().GetCapacityBytes()
	return resp, nil
}

func (d *memoryDriver) DeleteVolume(ctx context.Context, req *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	if err := d.enter(ctx, "DeleteVolume", req); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.volumes, req.GetVolumeId())
	return &csi.DeleteVolumeResponse{}, nil
}

func (d *memoryDriver) NodePublishVolume(ctx context.Context, req *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	if err := d.enter(ctx, "NodePublishVolume", req); err != nil {
		return nil, err
	}
	return &csi.NodePublishVolumeResponse{}, nil
}

func (d *memoryDriver) NodeGetVolumeStats(ctx context.Context, req *csi.NodeGetVolumeStatsRequest) (*csi.NodeGetVolumeStatsResponse, error) {
	if err := d.enter(ctx, "NodeGetVolumeStats", req); err != nil {
		return nil, err
	}
	return &csi.NodeGetVolumeStatsResponse{Usage: []*csi.VolumeUsage{{Total: 1}}}, nil
}

// logBuffer keeps the lines of a JSON log.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// lines are the log lines about a method, oldest first.
func (b *logBuffer) lines(t *testing.T, method string) []map[string]any {
	t.Helper()
	var found []map[string]any
	for decoder := json.NewDecoder(bytes.NewBufferString(b.String())); decoder.More(); {
		var line map[string]any
		if err := decoder.Decode(&line); err != nil {
			t.Fatal(err)
		}
		if line[KeyMethod] == method {
			found = append(found, line)
		}
	}
	return found
}

func (b *logBuffer) logger() *slog.Logger {
	return slog.New(slog.NewJSONHandler(b, &slog.HandlerOptions{Level: LevelTrace}))
}

// served is a server that serves a driver on a socket.
type served struct {
	controller csi.ControllerClient
	node       csi.NodeClient
	identity   csi.IdentityClient
	conn       *grpc.ClientConn
	log        *logBuffer
	metrics    *Metrics
	socket     string
	server     *Server

	stop    context.CancelFunc
	stopped chan struct{}
	err     error // of Run, once stopped is closed
}

// serve runs a server until the end of the test.
func serve(t *testing.T, d *memoryDriver, adjust func(*Config)) *served {
	t.Helper()
	r := &served{
		log: &logBuffer{}, metrics: NewMetrics("csi.holdfast.dev"), stopped: make(chan struct{}),
		socket: filepath.Join(t.TempDir(), "csi.sock"),
	}
	cfg := Config{
		Endpoint: "unix://" + r.socket, Logger: r.log.logger(), Metrics: r.metrics,
		OperationTimeout: time.Minute, LockWait: 20 * time.Millisecond, Grace: 10 * time.Second,
	}
	if adjust != nil {
		adjust(&cfg)
	}
	s, err := New(cfg, func(registrar grpc.ServiceRegistrar) {
		csi.RegisterIdentityServer(registrar, d)
		csi.RegisterControllerServer(registrar, d)
		csi.RegisterNodeServer(registrar, d)
	})
	if err != nil {
		t.Fatal(err)
	}
	r.server = s
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	go func() {
		defer close(r.stopped)
		r.err = s.Run(ctx)
	}()
	r.conn, err = grpc.NewClient("unix://"+r.socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		// The first attempt may come before the socket; the default waits for 1 s then.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 5 * time.Millisecond, Multiplier: 1.5, MaxDelay: 50 * time.Millisecond},
			MinConnectTimeout: 10 * time.Second,
		}),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true), grpc.MaxCallSendMsgSize(64<<20)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop()
		<-r.stopped
		if err := r.conn.Close(); err != nil {
			t.Error(err)
		}
	})
	r.controller = csi.NewControllerClient(r.conn)
	r.node = csi.NewNodeClient(r.conn)
	r.identity = csi.NewIdentityClient(r.conn)
	if _, err := r.identity.Probe(t.Context(), &csi.ProbeRequest{}); err != nil {
		t.Fatalf("the server does not answer: %v", err)
	}
	return r
}

// callers is how many callers wait for operations.
func (r *served) callers() int {
	ops := r.server.ops
	ops.mu.Lock()
	defer ops.mu.Unlock()
	n := 0
	for op := range ops.all {
		n += op.callers
	}
	return n
}

// gate makes calls wait in the middle.
type gate struct {
	entered chan string // "%T" of the request of each call that came in
	open    chan struct{}
}

func newGate() *gate { return &gate{entered: make(chan string, 1000), open: make(chan struct{})} }

// pass is a memoryDriver.during for messages other than ProbeRequest.
func (g *gate) pass(_ context.Context, req any) error {
	if _, ok := req.(*csi.ProbeRequest); ok {
		return nil
	}
	g.entered <- fmt.Sprintf("%T", req)
	<-g.open
	return nil
}

// eventually waits for something that happens soon.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("did not happen: %s", what)
		}
	}
}
