package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/pflag"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// runDemo shows the life of a volume on a throw-away pool image and leaves
// nothing behind. Everything it says it has checked.
func runDemo(ctx context.Context, args []string, out io.Writer) (err error) {
	fs := pflag.NewFlagSet("driver demo", pflag.ContinueOnError)
	parent := fs.String("dir", "/var/tmp", "where to make the throw-away pool")
	poolSize := fs.String("pool-size", "12Gi", "the size of its image: that much of the disk is taken while the demo runs")
	data := fs.String("data", "256Mi", "how much data to write")
	if err := fs.Parse(args); err != nil {
		return err
	}
	size, err := volume.ParseBytes(*data)
	if err != nil {
		return fmt.Errorf("--data: %w", err)
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("%w: the demo attaches loop devices and mounts filesystems: run it as root", volume.ErrPrecondition)
	}
	if os.Getenv(insideEnv) == "" {
		return runInside()
	}
	n := newNarrator(out)
	box, err := newSandbox(*parent)
	if err != nil {
		return err
	}
	start := time.Now()
	d := &demo{narrator: n, box: box, data: size}
	err = d.run(ctx, *poolSize)
	return errors.Join(err, d.finish(err, time.Since(start)))
}

// demo is a running demonstration.
type demo struct {
	*narrator
	box  *sandbox
	data volume.Bytes
}

func (d *demo) run(ctx context.Context, poolSize string) error {
	d.chapter("A throw-away pool")
	err := d.step("start the driver on a new pool image of "+poolSize, func() (string, error) {
		return "allocated, formatted, mounted", d.box.start(ctx, poolSize)
	})
	if err != nil {
		return err
	}
	for _, part := range []func(context.Context) error{d.filesystem, d.ext4, d.block, d.full, d.nothingLeft} {
		if err := part(ctx); err != nil {
			return err
		}
	}
	return nil
}

// finish stops the driver and cleans up, whatever happened before.
func (d *demo) finish(failed error, took time.Duration) error {
	ignoreInterrupts()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if failed != nil {
		if log, err := os.ReadFile(d.box.log()); err == nil {
			fmt.Fprintf(d.out, "\nThe driver's log:\n%s\n", log)
		}
	}
	err := errors.Join(d.box.shutdown(), d.box.remove(ctx))
	if failed == nil && err == nil {
		fmt.Fprintf(d.out, "\n%s %d steps in %.1f s, every byte checked, nothing left behind.\n", d.paint(green, "Done:"), d.steps, took.Seconds())
	}
	return err
}
