// Package identity is the CSI Identity service: who the driver is, what it can
// do, and whether it has started.
//
// It promises the same answers from every instance of a version, controller and
// node alike, and that Probe says the truth about start-up and about nothing
// else: a lost disk does not make a driver unready, for restarting it brings no
// disk back. It does no I/O and takes no lock.
package identity

import (
	"context"
	"fmt"
	"regexp"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/holdfast-csi/holdfast/pkg/backend"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// Config is what a Server answers from.
type Config struct {
	// DriverName is the name of the CSIDriver object: at most 63 characters, in
	// domain name notation (CSI spec, GetPluginInfo).
	DriverName string
	// Version is the version of the driver. Never empty.
	Version string
	// Ready reports whether start-up has ended. Once true it stays true. It is
	// called for each Probe and must answer from memory.
	Ready func() bool
	// Capabilities are those of the engine.
	Capabilities backend.Capabilities
	// NodeOnly says that the driver has no Controller service: its volumes are inline.
	NodeOnly bool
}

// Server implements csi.IdentityServer.
type Server struct {
	csi.UnimplementedIdentityServer
	cfg Config
}

var _ csi.IdentityServer = (*Server)(nil)

var driverName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]{0,61}[A-Za-z0-9])?$`)

// New makes a Server. A bad name, an empty version or a Ready that is nil is
// ErrInvalid.
func New(cfg Config) (*Server, error) {
	switch {
	case !driverName.MatchString(cfg.DriverName):
		return nil, fmt.Errorf("%w: driver name %q: want at most 63 characters of [A-Za-z0-9.-], the first and the last a letter or a digit", volume.ErrInvalid, cfg.DriverName)
	case cfg.Version == "":
		return nil, fmt.Errorf("%w: the driver has no version", volume.ErrInvalid)
	case cfg.Ready == nil:
		return nil, fmt.Errorf("%w: nobody says when the driver is ready", volume.ErrInvalid)
	}
	return &Server{cfg: cfg}, nil
}

// GetPluginInfo answers name and version.
func (s *Server) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: s.cfg.DriverName, VendorVersion: s.cfg.Version}, nil
}

// GetPluginCapabilities answers what the driver as a whole can do: it does not
// depend on the mode of this instance (CSI spec, GetPluginCapabilities).
func (s *Server) GetPluginCapabilities(context.Context, *csi.GetPluginCapabilitiesRequest) (*csi.GetPluginCapabilitiesResponse, error) {
	if s.cfg.NodeOnly {
		return &csi.GetPluginCapabilitiesResponse{}, nil
	}
	caps := []*csi.PluginCapability{
		service(csi.PluginCapability_Service_CONTROLLER_SERVICE),
		service(csi.PluginCapability_Service_VOLUME_ACCESSIBILITY_CONSTRAINTS),
	}
	if s.cfg.Capabilities.Expansion {
		// ONLINE includes offline.
		caps = append(caps, &csi.PluginCapability{Type: &csi.PluginCapability_VolumeExpansion_{
			VolumeExpansion: &csi.PluginCapability_VolumeExpansion{Type: csi.PluginCapability_VolumeExpansion_ONLINE},
		}})
	}
	return &csi.GetPluginCapabilitiesResponse{Capabilities: caps}, nil
}

// Probe answers whether start-up has ended.
func (s *Server) Probe(context.Context, *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return &csi.ProbeResponse{Ready: wrapperspb.Bool(s.cfg.Ready())}, nil
}

func service(t csi.PluginCapability_Service_Type) *csi.PluginCapability {
	return &csi.PluginCapability{Type: &csi.PluginCapability_Service_{
		Service: &csi.PluginCapability_Service{Type: t},
	}}
}
