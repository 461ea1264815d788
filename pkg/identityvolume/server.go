package identityvolume

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/pkg/credential"
	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/pkg/podtoken"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// Config is what a Server works with.
type Config struct {
	// NodeID is the name of this node.
	NodeID string
	// Kubelet is the directory below which all target paths are. The caller closes it
	// after the last call.
	Kubelet *mount.Root
	// Sources are those that pods may name.
	Sources *credential.Sources
	// Notice is told what somebody who looks at a pod should know. It must return at
	// once, and may be nil. A text holds nothing secret.
	Notice func(pod podtoken.Pod, reason Reason, text string)
	// Swappable is called once if this kernel cannot keep the files out of swap space. It
	// may be nil.
	Swappable func()
	// Pace replaces how often what is tried, for tests; nil means as described.
	Pace *Pace
}

// Pace is for tests that have no minutes: see the fields of the same names.
type Pace struct {
	Poll, FirstRetry, MaxRetry, Confirm, ConfirmLogin time.Duration
}

// Server implements csi.NodeServer. An RPC that it does not have is UNIMPLEMENTED.
type Server struct {
	csi.UnimplementedNodeServer

	cfg  Config
	pace pace
	now  func() time.Time
	// life ends when Run does, and with it every refresh.
	life context.Context
	end  context.CancelFunc

	// refreshing are the goroutines of volumes, closing those that end sessions.
	refreshing, closing sync.WaitGroup

	mu      sync.Mutex
	volumes map[string]*held // by target
	taken   map[string]bool  // targets that a call works on
	counts  map[counted]uint64
	stopped bool

	// noswap is the option of a tmpfs that is never swapped out.
	noswap    string
	swappable sync.Once
}

// counted is what is counted: the refreshes of a source by outcome.
type counted struct{ source, outcome string }

// New is a Server for this machine. Volumes are refreshed until the end of Run.
func New(c Config) *Server {
	s := &Server{cfg: c, pace: defaultPace(), now: time.Now, noswap: "noswap", volumes: map[string]*held{}, taken: map[string]bool{}, counts: map[counted]uint64{}}
	if p := c.Pace; p != nil {
		s.pace = pace{poll: p.Poll, firstRetry: p.FirstRetry, maxRetry: p.MaxRetry, confirm: p.Confirm, confirmLogin: p.ConfirmLogin}
	}
	s.life, s.end = context.WithCancel(context.Background())
	for _, name := range c.Sources.Names() {
		for _, outcome := range []string{"ok", "failed", "fenced"} {
			s.counts[counted{name, outcome}] = 0
		}
	}
	return s
}

// closeTime is what the end of a session at its service may take.
const closeTime = 20 * time.Second

// Run waits until ctx ends, then ends all refreshes. Volumes stay as they are, and
// keep what they have at services: their pods go on. It is called once, after the last
// call has been answered or will be refused.
func (s *Server) Run(ctx context.Context) {
	<-ctx.Done()
	s.mu.Lock()
	s.stopped = true
	s.mu.Unlock()
	s.end()
	s.refreshing.Wait()
	s.closing.Wait()
}

// NodeGetInfo implements csi.NodeServer.
func (s *Server) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{NodeId: s.cfg.NodeID}, nil
}

// NodeGetCapabilities implements csi.NodeServer.
func (s *Server) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	// The group of a volume is given to its files when they are made, so kubelet need
	// not walk over them at each republish.
	group := &csi.NodeServiceCapability{Type: &csi.NodeServiceCapability_Rpc{
		Rpc: &csi.NodeServiceCapability_RPC{Type: csi.NodeServiceCapability_RPC_VOLUME_MOUNT_GROUP},
	}}
	return &csi.NodeGetCapabilitiesResponse{Capabilities: []*csi.NodeServiceCapability{group}}, nil
}

// find is the volume at a target.
func (s *Server) find(target string) *held {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.volumes[target]
}

// take makes a target this call's until end. Who waits before a call knows paths by
// their text, and kubelet's directory may have two spellings.
func (s *Server) take(target string) (end func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken[target] {
		return nil, fmt.Errorf("%w: another call works on %s", volume.ErrBusy, target)
	}
	s.taken[target] = true
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.taken, target)
	}, nil
}

// start adds a volume and refreshes it from now on.
func (s *Server) start(h *held) error {
	ctx, stop := context.WithCancel(s.life)
	h.stop, h.done = stop, make(chan struct{})
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		stop()
		return fmt.Errorf("%w: the driver is stopping, the same call carries on when it is back", volume.ErrUnavailable)
	}
	s.volumes[h.target] = h
	s.refreshing.Go(func() { h.run(ctx) })
	return nil
}

// drop ends the refreshes of a volume, waits for the last, and ends what the volume has
// at its service, for which nobody waits.
func (s *Server) drop(h *held) {
	h.stop()
	<-h.done
	s.mu.Lock()
	delete(s.volumes, h.target)
	s.mu.Unlock()
	s.closeSession(h)
}

func (s *Server) closeSession(h *held) {
	if h.session == nil {
		return
	}
	failed := func(err error) {
		h.notice(RevokeFailed, fmt.Sprintf("end what volume %s had: %s; it ends by itself at its expiry", h.id, h.hide(err)))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		// Run may have ended already, and with it who would wait for this.
		go failed(errors.New("the driver is stopping"))
		return
	}
	s.closing.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), closeTime)
		defer cancel()
		if err := h.session.Close(ctx); err != nil {
			failed(err)
		}
	})
}

func (s *Server) notice(pod podtoken.Pod, reason Reason, text string) {
	if s.cfg.Notice != nil {
		s.cfg.Notice(pod, reason, text)
	}
}

func (s *Server) count(source, outcome string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts[counted{source, outcome}]++
}
