package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/pflag"

	"github.com/holdfast-csi/holdfast/pkg/backend/local"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// runWatchdog thaws what a driver leaves frozen, until ctx ends. In a container it
// needs the state directory, /dev and /sys, and CAP_SYS_ADMIN; it does not need to
// see kubelet's directory or the pools.
func runWatchdog(ctx context.Context, args []string, _ io.Writer) error {
	fs := pflag.NewFlagSet("driver watchdog", pflag.ContinueOnError)
	stateDir := fs.String("state-dir", defaultStateDir, "the driver's --state-dir")
	timeout := fs.Duration("freeze-timeout", local.DefaultFreezeTimeout, "the driver's --freeze-timeout; what it leaves frozen for a second longer is thawed")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("%w: unexpected argument %q", volume.ErrInvalid, fs.Arg(0))
	}
	logger := newLogger(0)
	report := &reporter{logger: logger}
	w, err := local.NewWatchdog(local.WatchdogConfig{StateDir: *stateDir, FreezeTimeout: *timeout, Notice: report.notice})
	if err != nil {
		return err
	}
	logger.Info("watching for filesystems that stay frozen", "stateDir", *stateDir, "freezeTimeout", *timeout)
	w.Run(ctx)
	logger.Info("stopped")
	return w.Close()
}
