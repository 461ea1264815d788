package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/prometheus/client_golang/prometheus"
	_ "golang.org/x/crypto/x509roots/fallback" // the image has no certificates of authorities, and clouds are public
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"github.com/holdfast-csi/holdfast/pkg/cluster"
	"github.com/holdfast-csi/holdfast/pkg/confine"
	"github.com/holdfast-csi/holdfast/pkg/credential"
	"github.com/holdfast-csi/holdfast/pkg/identity"
	"github.com/holdfast-csi/holdfast/pkg/identityvolume"
	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/pkg/podtoken"
	"github.com/holdfast-csi/holdfast/pkg/rpc"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// The modes of serve.
const (
	modeAll      = "all"
	modeIdentity = "identity"
)

// identityDriverName is the name of the CSIDriver object for identity volumes.
// Kubernetes fixes by that name that kubelet passes tokens and calls again.
const identityDriverName = "identity.csi.holdfast.dev"

// checkIdentity refuses flags that mean something else, or nothing, in the mode for
// identity volumes.
func checkIdentity(o options, given func(flag string) bool) error {
	if o.driverName == driverName && given("driver-name") {
		return fmt.Errorf("%w: --driver-name=%s is that of --mode=%s: leave it out, or give the name of a CSIDriver object for identity volumes", volume.ErrInvalid, driverName, modeAll)
	}
	for _, name := range []string{"pool", "pool-size", "pool-filesystem", "host-reserve", "freeze-timeout", "overcommit", "trim-interval"} {
		if given(name) {
			return fmt.Errorf("%w: --mode=%s has no pools: leave --%s out", volume.ErrInvalid, modeIdentity, name)
		}
	}
	return nil
}

// loadSources reads the sources of credentials.
func loadSources(path string) (*credential.Sources, error) {
	sources, err := credential.Load(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: it says which services pods may use, and is not there yet: in a cluster make the ConfigMap holdfast-identity-sources with sources.yaml in it, in the namespace of this pod (docs/guides/pod-identity.md); the driver starts by itself when it is there", err)
	}
	return sources, err
}

// serveIdentity serves identity volumes until ctx ends, then drains. Volumes stay
// mounted, with the files that they have.
func serveIdentity(ctx context.Context, o options, report *reporter) error {
	if o.sources == "" {
		return fmt.Errorf("%w: --mode=%s needs --identity-sources", volume.ErrInvalid, modeIdentity)
	}
	if o.driverName == driverName {
		o.driverName = identityDriverName
	}
	sources, err := loadSources(o.sources)
	if err != nil {
		return err
	}
	logger := report.logger
	logger.Info("sources of credentials", "names", sources.Names(), "audiences", sources.Audiences())
	ready := &readiness{}
	if o.requireShared {
		if ready.unfit = checkShared(o); ready.unfit != nil {
			report.warn(cluster.MountNotShared, ready.unfit.Error())
		}
	}
	kubelet, err := mount.OpenRoot(o.kubeletDir)
	if err != nil {
		return fmt.Errorf("--kubelet-dir: %w", err)
	}
	defer kubelet.Close()
	volumes := identityvolume.New(identityvolume.Config{
		NodeID: o.nodeID, Kubelet: kubelet, Sources: sources, Notice: report.noticeOfPod,
		Swappable: func() {
			logger.Warn("files of pods may reach swap space: this kernel has no noswap for tmpfs (it came with 6.3): use a newer one, or encrypt the swap space")
		},
	})
	// From here on nothing is opened that is not root's, and no program is run.
	if err := confine.Process(unix.CAP_SYS_ADMIN, unix.CAP_CHOWN); err != nil {
		return fmt.Errorf("%w: give up the rights that --mode=%s does not need, without which it serves nobody: %w", volume.ErrPrecondition, modeIdentity, err)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(identityvolume.NewCollector(volumes))
	metrics := rpc.NewMetrics(o.driverName, registry)
	ids, err := identity.New(identity.Config{DriverName: o.driverName, Version: version, Ready: ready.ok, NodeOnly: true})
	if err != nil {
		return err
	}
	server, err := rpc.New(rpc.Config{Endpoint: o.endpoint, Logger: logger, Metrics: metrics, Gate: ready.gate}, func(r grpc.ServiceRegistrar) {
		csi.RegisterIdentityServer(r, ids)
		csi.RegisterNodeServer(r, volumes)
	})
	if err != nil {
		return err
	}
	ready.started.Store(ready.unfit == nil)
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var group sync.WaitGroup
	if o.httpEndpoint != "" {
		health := rpc.NewHealth(rpc.HealthConfig{Endpoint: o.httpEndpoint, Metrics: metrics, Logger: logger, Ready: ready.err})
		group.Go(func() {
			if err := health.Run(ctx); err != nil {
				stop(err)
			}
		})
	}
	// Calls are answered to the last before refreshes end.
	refreshing, end := context.WithCancel(context.Background())
	group.Go(func() { volumes.Run(refreshing) })
	err = server.Run(ctx)
	stop(err)
	end()
	group.Wait()
	if cause := context.Cause(ctx); err == nil && cause != nil && !errors.Is(cause, context.Canceled) {
		err = cause
	}
	return err
}

// noticeOfPod passes on what somebody who looks at a pod should know.
func (r *reporter) noticeOfPod(pod podtoken.Pod, reason identityvolume.Reason, text string) {
	r.tellOf(cluster.Pod{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID}, reason.Warning(), string(reason), text)
}
