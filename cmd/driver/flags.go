package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/holdfast-csi/holdfast/pkg/backend/local"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// options is the command line of serve.
type options struct {
	endpoint      string
	nodeID        string
	driverName    string
	mode          string
	kubeletDir    string
	httpEndpoint  string
	freezeTimeout time.Duration
	overcommit    float64
	trimInterval  time.Duration
	verbosity     int
	pod           string
	requireShared bool
	sources       string
	pools         poolOptions
}

// poolOptions is the part of the command line that says where the pools are.
type poolOptions struct {
	dirs        []string
	sizes       []string
	filesystems []string
	stateDir    string
	hostReserve int
}

func (o *options) flags() *pflag.FlagSet {
	fs := pflag.NewFlagSet("driver serve", pflag.ContinueOnError)
	host, _ := os.Hostname() // without one the flag must be given
	fs.StringVar(&o.endpoint, "endpoint", "unix:///csi/csi.sock", "the CSI socket: unix:// and an absolute path that ends in .sock")
	fs.StringVar(&o.nodeID, "node-id", host, "the name of this node, as Kubernetes knows it")
	fs.StringVar(&o.driverName, "driver-name", driverName, "the name of the CSIDriver object; with --mode=identity "+identityDriverName+" unless given")
	fs.StringVar(&o.mode, "mode", modeAll, "what to serve: all (Controller and Node for one machine), or identity (identity volumes, without any pool)")
	fs.StringVar(&o.sources, "identity-sources", "", "with --mode=identity: the file that names the sources of credentials, in YAML (docs/reference/identity.md)")
	fs.StringVar(&o.kubeletDir, "kubelet-dir", "/var/lib/kubelet", "kubelet's directory; staging and target paths outside it are refused")
	fs.StringVar(&o.httpEndpoint, "http-endpoint", "", "host:port for /metrics, /healthz and /readyz; empty for none")
	fs.DurationVar(&o.freezeTimeout, "freeze-timeout", local.DefaultFreezeTimeout, "how long a filesystem may stay frozen for a snapshot before it is thawed and the snapshot fails")
	fs.Float64Var(&o.overcommit, "overcommit", 1, "how many times over a pool may be promised; with 1 no volume ever meets a full pool")
	fs.DurationVar(&o.trimInterval, "trim-interval", local.DefaultTrimInterval, "how often what was deleted inside volumes is given back to a pool that overcommits; 0 for never")
	addPod(fs, &o.pod)
	fs.BoolVar(&o.requireShared, "require-shared-mounts", false, "serve nothing unless the host sees what is mounted below --kubelet-dir and below each pool's DIR; for a driver in a pod")
	fs.IntVarP(&o.verbosity, "v", "v", 0, "log level: 0 changes and problems, 1 reads too, 2 every request and answer without its secrets")
	o.pools.add(fs)
	return fs
}

// addPod adds the flag that says which pod this process runs in.
func addPod(fs *pflag.FlagSet, pod *string) {
	fs.StringVar(pod, "pod", "", "the pod that this process runs in, as NAMESPACE/NAME: what an administrator should know becomes events of it (its UID is read from the environment, POD_UID)")
}

func (o *poolOptions) add(fs *pflag.FlagSet) {
	fs.StringArrayVar(&o.dirs, "pool", nil, "a pool as [NAME=]DIR, repeatable; a bare DIR is the pool named default")
	fs.StringArrayVar(&o.sizes, "pool-size", nil, "make and use a pool image of this size inside the pool's DIR, as [NAME=]SIZE such as 20Gi; without it DIR is on btrfs or XFS and was prepared by driver pool init")
	fs.StringArrayVar(&o.filesystems, "pool-filesystem", nil, "what a new pool image or disk is made with, as [NAME=]FILESYSTEM, btrfs or xfs; btrfs unless said otherwise")
	fs.StringVar(&o.stateDir, "state-dir", defaultStateDir, "a directory outside all pools that survives reboots: remembers which pools exist")
	fs.IntVar(&o.hostReserve, "host-reserve", int(100*local.DefaultHostReserve), "percent of the host's filesystem that a new pool image must leave free")
}

const (
	defaultPool     = "default"
	defaultStateDir = "/var/lib/holdfast/state"
)

// parse turns the flags into the engine's configuration.
func (o *poolOptions) parse() (local.Config, error) {
	cfg := local.Config{StateDir: o.stateDir, HostReserve: float64(o.hostReserve) / 100}
	if o.hostReserve < 0 || o.hostReserve > 99 {
		return cfg, fmt.Errorf("%w: --host-reserve=%d: want a percentage from 0 to 99", volume.ErrInvalid, o.hostReserve)
	}
	sizes := map[string]volume.Bytes{}
	for _, s := range o.sizes {
		name, text := splitName(s)
		size, err := volume.ParseBytes(text)
		if err != nil {
			return cfg, fmt.Errorf("--pool-size=%s: %w", s, err)
		}
		sizes[name] = size
	}
	filesystems := map[string]string{}
	for _, s := range o.filesystems {
		name, fsType := splitName(s)
		filesystems[name] = fsType
	}
	for _, p := range o.dirs {
		name, dir := splitName(p)
		cfg.Pools = append(cfg.Pools, local.PoolConfig{Name: name, Dir: dir, Size: sizes[name], Filesystem: filesystems[name]})
		delete(sizes, name)
		delete(filesystems, name)
	}
	for name := range sizes {
		return cfg, fmt.Errorf("%w: --pool-size names pool %s, and there is no --pool of that name", volume.ErrInvalid, name)
	}
	for name := range filesystems {
		return cfg, fmt.Errorf("%w: --pool-filesystem names pool %s, and there is no --pool of that name", volume.ErrInvalid, name)
	}
	return cfg, nil
}

// splitName splits [NAME=]VALUE.
func splitName(s string) (name, value string) {
	if name, value, ok := strings.Cut(s, "="); ok && !strings.Contains(name, "/") {
		return name, value
	}
	return defaultPool, s
}
