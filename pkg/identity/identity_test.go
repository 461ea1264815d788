package identity_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-csi/holdfast/pkg/backend"
	"github.com/holdfast-csi/holdfast/pkg/identity"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func config() identity.Config {
	return identity.Config{
		DriverName:   "csi.holdfast.dev",
		Version:      "v0.1.0",
		Ready:        func() bool { return true },
		Capabilities: backend.Capabilities{Snapshots: true, Clones: true, Expansion: true},
	}
}

func newServer(t *testing.T, cfg identity.Config) *identity.Server {
	t.Helper()
	s, err := identity.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestPluginInfoIsNameAndVersion(t *testing.T) {
	info, err := newServer(t, config()).GetPluginInfo(context.Background(), &csi.GetPluginInfoRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if info.GetName() != "csi.holdfast.dev" || info.GetVendorVersion() != "v0.1.0" {
		t.Errorf("got %v", info)
	}
}

func TestProbeIsNotReadyUntilStartUpHasEnded(t *testing.T) {
	ready := false
	cfg := config()
	cfg.Ready = func() bool { return ready }
	s := newServer(t, cfg)
	for _, want := range []bool{false, true} {
		ready = want
		got, err := s.Probe(context.Background(), &csi.ProbeRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if got.GetReady() == nil || got.GetReady().GetValue() != want {
			t.Errorf("ready %v, want %v", got.GetReady(), want)
		}
	}
}

func TestCapabilitiesFollowTheEngine(t *testing.T) {
	const controller, topology, online = "service CONTROLLER_SERVICE", "service VOLUME_ACCESSIBILITY_CONSTRAINTS", "expansion ONLINE"
	for _, c := range []struct {
		name string
		caps backend.Capabilities
		want []string
	}{
		{"an engine that can grow volumes", backend.Capabilities{Expansion: true}, []string{controller, topology, online}},
		{"an engine that cannot", backend.Capabilities{}, []string{controller, topology}},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := config()
			cfg.Capabilities = c.caps
			resp, err := newServer(t, cfg).GetPluginCapabilities(context.Background(), &csi.GetPluginCapabilitiesRequest{})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, capability := range resp.GetCapabilities() {
				if s := capability.GetService(); s != nil {
					got = append(got, "service "+s.GetType().String())
				}
				if e := capability.GetVolumeExpansion(); e != nil {
					got = append(got, "expansion "+e.GetType().String())
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("capabilities (-want +got):\n%s", diff)
			}
		})
	}
}

func TestBadConfigurationIsRefused(t *testing.T) {
	for name, spoil := range map[string]func(*identity.Config){
		"no name":              func(c *identity.Config) { c.DriverName = "" },
		"name with a slash":    func(c *identity.Config) { c.DriverName = "a/b" },
		"name ends with a dot": func(c *identity.Config) { c.DriverName = "csi." },
		"name too long":        func(c *identity.Config) { c.DriverName = strings.Repeat("a", 64) },
		"no version":           func(c *identity.Config) { c.Version = "" },
		"no readiness":         func(c *identity.Config) { c.Ready = nil },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config()
			spoil(&cfg)
			if _, err := identity.New(cfg); !errors.Is(err, volume.ErrInvalid) {
				t.Errorf("got %v, want ErrInvalid", err)
			}
		})
	}
	longest := config()
	longest.DriverName = strings.Repeat("a", 63)
	newServer(t, longest)
}
