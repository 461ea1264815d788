// Package node is the CSI Node service: it makes volumes appear in pods on this
// machine, and disappear again.
//
// It promises that what is staged and published is derived from the kernel
// alone (mountinfo, device numbers, loop tags) and never from records of its
// own, so that a driver that was killed at any moment, or replaced, goes on
// where the last one stopped; that a path becomes a mount only when everything
// behind it is right; that nothing is ever written to a path that is not a
// mount; and that read-only is real. A call made again repairs or does nothing.
//
// It never formats: a device without the filesystem that its volume was born
// with is lost data, and refused. It deletes nothing but empty targets, runs no
// program itself, maps no error to a gRPC code and logs nothing; pkg/rpc does
// the rest, and keeps the calls for one volume apart: publishing and unpublishing
// may run beside each other, everything else runs alone.
package node

import (
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/pkg/backend"
	"github.com/holdfast-csi/holdfast/pkg/command"
	"github.com/holdfast-csi/holdfast/pkg/fault"
	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// Config is what a Server works with.
type Config struct {
	// NodeID is the name of this node.
	NodeID  string
	Backend backend.Attacher
	// Kubelet is the directory below which all staging and target paths are. The
	// caller closes it after the last call.
	Kubelet *mount.Root
	// Runner runs the filesystem checks.
	Runner command.Runner
	// Ready says whether the pools have been opened. nil means always.
	Ready func() bool
	// Fault is called before each of Steps.
	Fault fault.Hook
}

// Server implements csi.NodeServer. An RPC that it does not have is
// UNIMPLEMENTED.
type Server struct {
	csi.UnimplementedNodeServer

	nodeID  string
	backend backend.Attacher
	root    *mount.Root
	runner  command.Runner
	ready   func() bool
	fault   fault.Hook
	turns   turns
	loops   loop.Index
}

// New is a Server for this machine.
func New(c Config) *Server {
	if c.Ready == nil {
		c.Ready = func() bool { return true }
	}
	return &Server{nodeID: c.NodeID, backend: c.Backend, root: c.Kubelet, runner: c.Runner, ready: c.Ready, fault: c.Fault}
}

// parseID reads a required volume id: ErrInvalid if it is missing, ErrNotFound
// if it is none of ours.
func parseID(id string) (volume.ID, error) {
	if id == "" {
		return "", fmt.Errorf("%w: volume id is missing", volume.ErrInvalid)
	}
	return volume.ParseID(volume.KindVolume, id)
}
