package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/pflag"

	"github.com/holdfast-csi/holdfast/pkg/backend/local"
	osexec "github.com/holdfast-csi/holdfast/pkg/command"
)

// runPoolCheck looks for what is wrong with the registered pools, with a driver
// running or without.
func runPoolCheck(ctx context.Context, args []string, out io.Writer) error {
	fs := pflag.NewFlagSet("driver pool check [NAME]", pflag.ContinueOnError)
	what := local.Checking{Runner: osexec.New()}
	fs.StringVar(&what.StateDir, "state-dir", defaultStateDir, "the driver's --state-dir")
	fs.BoolVar(&what.Filesystems, "filesystems", true, "look through the filesystems of volumes that are not attached")
	fs.BoolVar(&what.Snapshots, "snapshots", false, "look through the filesystems of snapshots too")
	format := addFormat(fs)
	name, err := parseName(fs, format, args)
	if err != nil {
		return err
	}
	what.Pool = name
	checks, err := local.Check(ctx, what)
	if err != nil {
		return err
	}
	if checks == nil {
		checks = []local.PoolCheck{} // a list in JSON
	}
	if err := format.print(out, checks, func(out io.Writer) error { return printChecks(out, checks) }); err != nil {
		return err
	}
	problems := 0
	for _, c := range checks {
		problems += c.Problems()
	}
	if problems > 0 {
		return fmt.Errorf("%d problems were found", problems)
	}
	return nil
}

func printChecks(out io.Writer, checks []local.PoolCheck) error {
	for _, c := range checks {
		fmt.Fprintf(out, "pool %s (%s): %d volumes and %d snapshots compared, %d filesystems looked through, %d are in use and were not\n",
			c.Name, c.Dir, c.Volumes, c.Snapshots, c.Filesystems, c.InUse)
		for _, f := range c.Findings {
			object := f.Object
			if object == "" {
				object = "the pool"
			}
			fmt.Fprintf(out, "  %s: %s: %s\n      do: %s\n", f.Severity, object, f.What, f.Do)
		}
		if len(c.Findings) == 0 {
			fmt.Fprintln(out, "  all is well")
		}
	}
	return nil
}
