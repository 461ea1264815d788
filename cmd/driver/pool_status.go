package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/pflag"

	"github.com/holdfast-csi/holdfast/pkg/backend/local"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// runPoolStatus shows the registered pools, with a driver running or without.
func runPoolStatus(ctx context.Context, args []string, out io.Writer) error {
	fs := pflag.NewFlagSet("driver pool status [NAME]", pflag.ContinueOnError)
	stateDir := fs.String("state-dir", defaultStateDir, "the driver's --state-dir")
	volumes := fs.Bool("volumes", false, "show each volume and snapshot too; it looks at all their extents. With NAME it is on unless --volumes=false")
	format := addFormat(fs)
	name, err := parseName(fs, format, args)
	if err != nil {
		return err
	}
	extents := *volumes || name != "" && !fs.Changed("volumes")
	pools, err := local.Inspect(ctx, local.Inspection{StateDir: *stateDir, Pool: name, Extents: extents})
	if err != nil {
		return err
	}
	if pools == nil {
		pools = []local.PoolStatus{} // a list in JSON
	}
	if err := format.print(out, pools, func(out io.Writer) error { return printStatus(out, pools) }); err != nil {
		return err
	}
	return problems(pools)
}

// parseName parses a command line that may name one pool.
func parseName(fs *pflag.FlagSet, f *format, args []string) (name string, err error) {
	if err := fs.Parse(args); err != nil {
		return "", err
	}
	if err := f.check(); err != nil {
		return "", err
	}
	if fs.NArg() > 1 {
		return "", fmt.Errorf("%w: unexpected argument %q: name one pool, or none for all", volume.ErrInvalid, fs.Arg(1))
	}
	return fs.Arg(0), nil
}

func problems(pools []local.PoolStatus) error {
	var found []string
	for _, p := range pools {
		if !p.Available {
			found = append(found, fmt.Sprintf("pool %s: %s", p.Name, p.Reason))
		}
		if p.Damaged > 0 {
			found = append(found, fmt.Sprintf("pool %s: %d objects are damaged and not served; driver pool check names them", p.Name, p.Damaged))
		}
	}
	if len(found) == 0 {
		return nil
	}
	return errors.New(strings.Join(found, "\n        "))
}

func printStatus(out io.Writer, pools []local.PoolStatus) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tID\tSTATE\tKIND\tVOLUMES\tSNAPSHOTS\tSIZE\tFREE\tPROMISED\tLARGEST NEW VOLUME\tDIR")
	for _, p := range pools {
		state := "ok"
		if !p.Available {
			state = "unavailable"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%d\t%s\t%s\t%s\t%s\t%s\n",
			p.Name, p.ID, state, p.Kind, p.Volumes, p.Snapshots, p.Size, p.Free, p.Promised, p.Room, p.Dir)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, p := range pools {
		if p.Use == nil {
			continue
		}
		if err := printUse(out, p); err != nil {
			return err
		}
		if err := printObjects(out, p.Objects); err != nil {
			return err
		}
	}
	return nil
}

// printUse explains where the space of a pool is.
func printUse(out io.Writer, p local.PoolStatus) error {
	fmt.Fprintf(out, "\nPool %s: %s of %s on %s\n", p.Name, p.Size, p.Filesystem, p.Source)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "  volumes and snapshots\t%s\t%s would be free without any snapshot, %s is dead: nobody can read it, and live blocks of the same extents pin it\n", p.Use.Data, p.Use.SnapshotsOnly, p.Use.Dead)
	fmt.Fprintf(w, "  trash\t%s\tdeleted, and freed in the background\n", p.Use.Trash)
	fmt.Fprintf(w, "  ballast\t%s\tkeeps records writable on a full pool\n", p.Use.Ballast)
	fmt.Fprintf(w, "  metadata\t%s\twhere the filesystem knows all that from\n", p.Use.Metadata)
	fmt.Fprintf(w, "  other\t%s\tset aside by the filesystem, or just being freed\n", p.Use.Other)
	over := ""
	if p.Overcommit > 1 {
		over = fmt.Sprintf(", with --overcommit=%g", p.Overcommit)
	}
	fmt.Fprintf(w, "  free\t%s\tpromised %s of at most %s%s\n", p.Free, p.Promised, p.Promisable, over)
	return w.Flush()
}

func printObjects(out io.Writer, objects []local.ObjectStatus) error {
	if len(objects) == 0 {
		return nil
	}
	fmt.Fprintln(out)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tKIND\tSIZE\tUSED\tEXCLUSIVE\tPINNED BY SNAPSHOTS\tDEAD\tPROMISED\tEXTENTS\tSNAPSHOTS\tDEVICE\tID")
	for _, o := range objects {
		pinned, promised, snapshots, device := "-", "-", "-", "-"
		if o.Kind == "volume" {
			pinned, promised, snapshots = o.Pinned.String(), o.Promised.String(), fmt.Sprint(o.Snapshots)
		}
		if o.Device != "" {
			device = o.Device
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\t%s\t%s\n",
			o.Name, o.Kind, o.Size, o.Used, o.Exclusive, pinned, o.Dead, promised, o.Extents, snapshots, device, o.ID)
	}
	return w.Flush()
}
