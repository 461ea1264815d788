package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/pflag"

	"github.com/holdfast-csi/holdfast/pkg/backend/local"
	osexec "github.com/holdfast-csi/holdfast/pkg/command"
	"github.com/holdfast-csi/holdfast/pkg/disk"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// poolsDir is where the disks are mounted that become pools. In a cluster it is
// one of the two directories that the driver shares with the host.
const poolsDir = "/var/lib/holdfast/pools"

// placeOptions is the part of the command line that names the pools to make or to
// adopt.
type placeOptions struct {
	pools  poolOptions
	dir    string
	format *format
}

// parse is the configuration of the engine that makes or adopts the pools of args.
func (o *placeOptions) parse(fs *pflag.FlagSet, args []string) (local.Config, error) {
	fs.StringVar(&o.dir, "dir", "", "where to mount the disk; "+poolsDir+"/NAME unless given")
	o.format = addFormat(fs)
	if err := fs.Parse(args); err != nil {
		return local.Config{}, err
	}
	if err := o.format.check(); err != nil {
		return local.Config{}, err
	}
	o.pools.dirs = append(o.pools.dirs, fs.Args()...)
	cfg, err := o.pools.parse()
	if err != nil {
		return cfg, err
	}
	disks := 0
	for i, p := range cfg.Pools {
		if !disk.IsDevice(p.Dir) {
			continue
		}
		disks++
		if p.Size > 0 {
			return cfg, fmt.Errorf("%w: --pool-size is for pool images; a disk is used as a whole", volume.ErrInvalid)
		}
		cfg.Pools[i].Device, cfg.Pools[i].Dir = p.Dir, filepath.Join(poolsDir, p.Name)
		if o.dir != "" {
			cfg.Pools[i].Dir = o.dir
		}
	}
	if o.dir != "" && disks != 1 {
		return cfg, fmt.Errorf("%w: --dir says where to mount one disk, and %d are named", volume.ErrInvalid, disks)
	}
	cfg.Runner = osexec.New()
	cfg.Notice = func(_ local.Reason, text string) { fmt.Fprintln(os.Stderr, "note:", text) }
	return cfg, nil
}

// runPoolInit makes pools: of directories on btrfs or XFS, as images, of disks.
func runPoolInit(ctx context.Context, args []string, out io.Writer) error {
	fs := pflag.NewFlagSet("driver pool init [NAME=]DIR|/dev/DISK...", pflag.ContinueOnError)
	var o placeOptions
	o.pools.add(fs)
	if err := fs.MarkHidden("pool"); err != nil {
		return err
	}
	cfg, err := o.parse(fs, args)
	if err != nil {
		return err
	}
	engine, err := local.New(cfg)
	if err != nil {
		return err
	}
	if err := errors.Join(engine.Init(ctx), engine.Close()); err != nil {
		return err
	}
	made, err := registered(ctx, cfg, false)
	if err != nil {
		return err
	}
	return o.format.print(out, made, func(out io.Writer) error {
		for i, p := range made {
			fmt.Fprintf(out, "pool %s is ready: %s\n", p.Name, p.ID)
			if p.Kind == "disk" {
				fmt.Fprintf(out, "  %s of %s on %s (%s), mounted at %s\n", p.Size, p.Filesystem, cfg.Pools[i].Device, p.FilesystemUUID, p.Dir)
			}
			nextSteps(out, p)
		}
		return nil
	})
}

// registered is the status of the pools of a configuration, in its order; extents
// asks for what is in them.
func registered(ctx context.Context, cfg local.Config, extents bool) ([]local.PoolStatus, error) {
	all, err := local.Inspect(ctx, local.Inspection{StateDir: cfg.StateDir})
	if err != nil {
		return nil, err
	}
	var out []local.PoolStatus
	for _, pc := range cfg.Pools {
		at := slices.IndexFunc(all, func(p local.PoolStatus) bool { return p.Dir == filepath.Clean(pc.Dir) || p.Name == pc.Name })
		if at < 0 {
			return nil, fmt.Errorf("%w: pool %s is not registered", volume.ErrUnavailable, pc.Name)
		}
		found := all[at : at+1]
		if extents {
			if found, err = local.Inspect(ctx, local.Inspection{StateDir: cfg.StateDir, Pool: all[at].Name, Extents: true}); err != nil {
				return nil, err
			}
		}
		out = append(out, found...)
	}
	return out, nil
}

// nextSteps says how the driver comes to use a pool.
func nextSteps(out io.Writer, p local.PoolStatus) {
	flags := []string{fmt.Sprintf("--pool=%s=%s", p.Name, p.Dir)}
	if st, err := os.Stat(filepath.Join(p.Dir, local.ImageFile)); err == nil && p.Kind == "image" {
		flags = append(flags, fmt.Sprintf("--pool-size=%s=%d", p.Name, st.Size()))
	}
	fmt.Fprintln(out, "\nTo use it, start the driver with:")
	for _, f := range flags {
		fmt.Fprintf(out, "    %s\n", f)
	}
	fmt.Fprintln(out, "In Kubernetes add that to the driver's arguments:")
	for _, f := range flags {
		fmt.Fprintf(out, "    kubectl -n holdfast-system patch daemonset holdfast --type=json -p '[{\"op\":\"add\",\"path\":\"/spec/template/spec/containers/0/args/-\",\"value\":\"%s\"}]'\n", f)
	}
	fmt.Fprintf(out, "and choose it in a StorageClass:\n    parameters: {pool: %s}\n", p.Name)
	if p.Kind == "disk" {
		fmt.Fprintln(out, "The driver finds the disk by the UUID of its filesystem and mounts it at each start; /etc/fstab needs no line.")
	}
}
