package rpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"google.golang.org/grpc"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// Defaults of the durations in Config.
const (
	DefaultOperationTimeout = 2 * time.Minute
	DefaultLockWait         = time.Second
	// DefaultGrace fits into the 30 s that Kubernetes gives a pod to end.
	DefaultGrace = 25 * time.Second
)

// maxMessage is the size in bytes of the largest request. It is large enough for
// a request with a string of some megabytes to be refused for that string;
// beyond it gRPC answers RESOURCE_EXHAUSTED.
const maxMessage = 8 << 20

// Config is what a Server needs.
type Config struct {
	// Endpoint is the socket, such as unix:///csi/csi.sock.
	Endpoint string
	// Logger gets a line per call. The default discards them.
	Logger *slog.Logger
	// Metrics counts the calls; it may be nil.
	Metrics *Metrics
	// Gate says why no Controller and no Node call can be served now, nil if they
	// can. It is called for each of them and must answer from memory. nil means
	// always.
	Gate func() error
	// Repeats answers a call that asks for what is so already; ok is false for any other
	// one. It changes nothing, and is called for one that cannot have the lock of its
	// volume, while nobody else works on the path that it names. It may be nil.
	Repeats func(ctx context.Context, req any) (resp any, ok bool)
	// OperationTimeout is how long a call may take, whatever its caller's deadline:
	// 0 means DefaultOperationTimeout.
	OperationTimeout time.Duration
	// LockWait is how long a call waits for another one on the same object before
	// it is ABORTED: 0 means DefaultLockWait, less than 0 not at all.
	LockWait time.Duration
	// Grace is how long a stop waits for operations: 0 means DefaultGrace.
	Grace time.Duration
}

// Server serves CSI on a unix socket.
type Server struct {
	cfg    Config
	path   string
	logger *slog.Logger
	grpc   *grpc.Server
	ops    *operations
	abort  context.CancelFunc // ends the contexts of all operations
}

// New makes a Server that does not listen yet; register is called once to add
// the services to it. A bad endpoint is ErrInvalid.
func New(cfg Config, register func(grpc.ServiceRegistrar)) (*Server, error) {
	path, err := ParseEndpoint(cfg.Endpoint)
	if err != nil {
		return nil, err
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cfg.OperationTimeout = orDefault(cfg.OperationTimeout, DefaultOperationTimeout)
	cfg.LockWait = orDefault(cfg.LockWait, DefaultLockWait)
	cfg.Grace = orDefault(cfg.Grace, DefaultGrace)

	base, abort := context.WithCancel(context.Background())
	log := &callLog{logger: slog.New(RedactHandler(cfg.Logger.Handler()))}
	s := &Server{
		cfg:    cfg,
		path:   path,
		logger: log.logger,
		ops:    newOperations(base, cfg.OperationTimeout, cfg.LockWait, log),
		abort:  abort,
	}
	s.ops.repeats = cfg.Repeats
	s.grpc = grpc.NewServer(
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.ForceServerCodecV2(newEnvelopeCodec()),
		grpc.ChainUnaryInterceptor(
			log.lastResort,
			log.logCalls,
			cfg.Metrics.recordMetrics,
			statusErrors,
			recoverPanics,
			gated(cfg.Gate),
			validateRequests,
			s.ops.runOperations,
		),
	)
	register(envelopeRegistrar{s.grpc, func(c call) {
		log.log("call", c)
		cfg.Metrics.record(c.method, c.err, c.took)
	}})
	return s, nil
}

func orDefault(d, def time.Duration) time.Duration {
	if d == 0 {
		return def
	}
	return d
}

// Run listens on the socket and serves until ctx ends. Then it takes no new
// calls, answers those in flight, and waits for operations whose callers have
// gone; what is still running after the grace period has its context ended and
// gets a moment to return. It is nil when nothing was left running. Run is called
// once.
//
// It is ErrInUse if another process answers on the socket, ErrExists if a file
// that is no socket is in its place.
func (s *Server) Run(ctx context.Context) error {
	defer s.abort()
	listener, err := listen(s.path)
	if err != nil {
		return err
	}
	s.logger.Info("serving CSI", KeyEndpoint, s.cfg.Endpoint)
	served := make(chan error, 1)
	go func(l net.Listener) { served <- s.grpc.Serve(l) }(listener)
	var failed error
	select {
	case err := <-served:
		failed = fmt.Errorf("serve on socket %s: %w", s.path, err)
	case <-ctx.Done():
	}
	return errors.Join(failed, s.drain())
}

// lastMoment is what operations get to return after their contexts ended.
const lastMoment = 2 * time.Second

// drain is the way from serving to an idle process.
func (s *Server) drain() error {
	s.logger.Info("stopping: no new calls", KeyWaiting, s.ops.list())
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		s.grpc.GracefulStop()
	}()
	if s.idle(answered, s.cfg.Grace) {
		s.logger.Info("stopped")
		return nil
	}
	s.logger.Warn("the grace period is over, telling operations to end", KeyWaiting, s.ops.list())
	s.abort()
	idle := s.idle(answered, lastMoment)
	// In a goroutine, since it waits for the connections of callers.
	go s.grpc.Stop()
	if !idle {
		if left := s.ops.list(); left != "" {
			return fmt.Errorf("%w after a grace period of %s: %s", volume.ErrBusy, s.cfg.Grace, left)
		}
		// Only callers that do not hang up, or reads that do not return.
		s.logger.Warn("calls that read were cut off")
	}
	s.logger.Info("stopped")
	return nil
}

// idle waits until all callers have their answers and no operation is left, and
// says in the log what it waits for. It is false if that takes longer than limit.
func (s *Server) idle(answered <-chan struct{}, limit time.Duration) bool {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	quiet := make(chan struct{})
	go func() {
		select {
		case <-answered:
		case <-ctx.Done():
			return
		}
		if s.ops.wait(ctx) == nil {
			close(quiet)
		}
	}()
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-quiet:
			return true
		case <-ctx.Done():
			return false
		case <-tick.C:
			s.logger.Info("stopping: waiting for operations", KeyWaiting, s.ops.list())
		}
	}
}
