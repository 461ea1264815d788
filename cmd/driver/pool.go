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
	osexec "github.com/holdfast-csi/holdfast/pkg/command"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func runPool(ctx context.Context, args []string, out io.Writer) error {
	if len(args) > 0 {
		switch args[0] {
		case "init":
			return runPoolInit(ctx, args[1:], out)
		case "status":
			return runPoolStatus(args[1:], out)
		}
	}
	return fmt.Errorf("%w: say pool init or pool status", volume.ErrInvalid)
}

// runPoolInit makes pools: of directories on btrfs, or as images.
func runPoolInit(ctx context.Context, args []string, out io.Writer) error {
	fs := pflag.NewFlagSet("driver pool init [NAME=]DIR", pflag.ContinueOnError)
	var o poolOptions
	o.add(fs)
	if err := fs.MarkHidden("pool"); err != nil {
		return err
	}
	if err := fs.Parse(args); err != nil {
		return err
	}
	o.dirs = append(o.dirs, fs.Args()...)
	cfg, err := o.parse()
	if err != nil {
		return err
	}
	cfg.Runner = osexec.New()
	cfg.Notice = func(_ local.Reason, text string) { fmt.Fprintln(out, "note:", text) }
	engine, err := local.New(cfg)
	if err != nil {
		return err
	}
	if err := engine.Init(ctx); err != nil {
		return errors.Join(err, engine.Close())
	}
	for _, p := range engine.Pools() {
		fmt.Fprintf(out, "pool %s is ready: %s\n", p.Name, p.ID)
	}
	return engine.Close()
}

// runPoolStatus shows the registered pools, with a driver running or without.
func runPoolStatus(args []string, out io.Writer) error {
	fs := pflag.NewFlagSet("driver pool status", pflag.ContinueOnError)
	stateDir := fs.String("state-dir", defaultStateDir, "the driver's --state-dir")
	if err := fs.Parse(args); err != nil {
		return err
	}
	pools, err := local.Inspect(*stateDir)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tID\tSTATE\tVOLUMES\tSNAPSHOTS\tFREE\tPROMISED\tLARGEST NEW VOLUME\tDIR")
	var problems []string
	for _, p := range pools {
		state := "ok"
		if !p.Available {
			state = "unavailable"
			problems = append(problems, fmt.Sprintf("pool %s: %s", p.Name, p.Reason))
		}
		if p.Damaged > 0 {
			problems = append(problems, fmt.Sprintf("pool %s: %d objects are damaged and not served; the driver's log names them", p.Name, p.Damaged))
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%s\t%s\t%s\t%s\n", p.Name, p.ID, state, p.Volumes, p.Snapshots, p.Free, p.Promised, p.Room, p.Dir)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if len(problems) > 0 {
		return errors.New(strings.Join(problems, "\n        "))
	}
	return nil
}
