package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/pflag"

	"github.com/holdfast-csi/holdfast/pkg/backend/local"
	"github.com/holdfast-csi/holdfast/pkg/topology"
)

// runPoolAdopt registers pools that come from another node, or whose registration
// was lost.
func runPoolAdopt(ctx context.Context, args []string, out io.Writer) error {
	fs := pflag.NewFlagSet("driver pool adopt [NAME=]DIR|/dev/DISK...", pflag.ContinueOnError)
	var o placeOptions
	fs.StringVar(&o.pools.stateDir, "state-dir", defaultStateDir, "the driver's --state-dir")
	cfg, err := o.parse(fs, args)
	if err != nil {
		return err
	}
	engine, err := local.New(cfg)
	if err != nil {
		return err
	}
	if err := errors.Join(engine.Adopt(ctx), engine.Close()); err != nil {
		return err
	}
	adopted, err := registered(ctx, cfg, true)
	if err != nil {
		return err
	}
	return o.format.print(out, adopted, func(out io.Writer) error {
		if err := printStatus(out, adopted); err != nil {
			return err
		}
		for _, p := range adopted {
			fmt.Fprintf(out, "\nPool %s (%s) is registered on this node.\n", p.Name, p.ID)
			nextSteps(out, p)
			for key := range topology.OfPool(p.ID) {
				fmt.Fprintln(out, "PersistentVolumes in it work here as they are: they ask for the pool, not for a node.")
				fmt.Fprintln(out, "If the node that had it is still in the cluster, take its label away, or pods may be scheduled there:")
				fmt.Fprintf(out, "    kubectl label node OLD-NODE %s-\n", key)
			}
		}
		return nil
	})
}
