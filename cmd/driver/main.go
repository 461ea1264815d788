// Command driver is Holdfast: a CSI driver for local persistent volumes.
//
// It parses the command line and wires the packages together; it is the only
// place that names a concrete engine.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/pflag"
)

// version is set by the linker (-X main.version=...).
var version = "devel"

// driverName is the name of the CSIDriver object that this binary serves unless
// told otherwise.
const driverName = "csi.holdfast.dev"

// command is one verb of the command line.
type command struct {
	name, summary string
	run           func(ctx context.Context, args []string, out io.Writer) error
}

func commands() []command {
	return []command{
		{"serve", "serve CSI on a socket (the default)", runServe},
		{"demo", "show the whole life of a volume on a throw-away pool, with times", runDemo},
		{"watchdog", "thaw filesystems that a driver which died or hangs has left frozen", runWatchdog},
		{"claim-node", "take the claim of the one node that this version serves, or say who has it", runClaimNode},
		{"pool", "pool init DIR: make a directory on btrfs or XFS, or a disk, a pool; pool status: what the pools hold", runPool},
		{"version", "print the version", runVersion},
	}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := dispatch(ctx, os.Args[1:], os.Stdout)
	stop()
	switch {
	case errors.Is(err, pflag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "driver:", err)
		os.Exit(1)
	}
}

// dispatch runs the verb that args name. Flags without a verb mean serve.
func dispatch(ctx context.Context, args []string, out io.Writer) error {
	if len(args) == 0 || len(args[0]) > 0 && args[0][0] == '-' {
		if len(args) > 0 && (args[0] == "-h" || args[0] == "--help") {
			usage(out)
			return pflag.ErrHelp
		}
		return runServe(ctx, args, out)
	}
	for _, c := range commands() {
		if c.name == args[0] {
			return c.run(ctx, args[1:], out)
		}
	}
	usage(os.Stderr)
	return fmt.Errorf("there is no command %q", args[0])
}

func usage(out io.Writer) {
	fmt.Fprintln(out, "Holdfast: persistent volumes on the disks of your own machines.")
	fmt.Fprintln(out)
	fmt.Fprintln(out, "Usage: driver [COMMAND] [FLAGS]")
	fmt.Fprintln(out)
	for _, c := range commands() {
		fmt.Fprintf(out, "  %-10s %s\n", c.name, c.summary)
	}
	fmt.Fprintln(out)
	fmt.Fprintln(out, "driver COMMAND --help shows the flags of a command.")
}

func runVersion(_ context.Context, _ []string, out io.Writer) error {
	_, err := fmt.Fprintln(out, "holdfast", version)
	return err
}
