package rpc

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func TestBehindAClosedGateOnlyIdentityIsServed(t *testing.T) {
	d := newMemoryDriver()
	var closed atomic.Bool
	closed.Store(true)
	r := serve(t, d, func(c *Config) {
		c.Gate = func() error {
			if closed.Load() {
				// Whatever the reason wraps, the call may succeed later.
				return fmt.Errorf("the mounts are not shared: %w", volume.ErrPrecondition)
			}
			return nil
		}
	})
	_, create := r.controller.CreateVolume(t.Context(), &csi.CreateVolumeRequest{Name: "pvc-1"})
	_, info := r.node.NodeGetInfo(t.Context(), &csi.NodeGetInfoRequest{})
	for method, err := range map[string]error{"CreateVolume": create, "NodeGetInfo": info} {
		if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "the mounts are not shared") || !strings.Contains(err.Error(), method) {
			t.Errorf("%s: got %v", method, err)
		}
	}
	if d.count("CreateVolume") != 0 {
		t.Error("the driver was called")
	}
	if _, err := r.identity.Probe(t.Context(), &csi.ProbeRequest{}); err != nil {
		t.Errorf("Probe: %v", err)
	}
	closed.Store(false)
	if _, err := r.controller.CreateVolume(t.Context(), &csi.CreateVolumeRequest{Name: "pvc-1"}); err != nil {
		t.Errorf("the gate is open: %v", err)
	}
}
