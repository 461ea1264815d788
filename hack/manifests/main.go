// Command manifests writes what the Helm chart is the source of: the manifests of
// deploy/kustomize and the reference of the chart's values, for `make manifests`.
// With --check it changes nothing, and ends with status 1 and one line for each file
// that is not what it should be.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/holdfast-csi/holdfast/test/chart"
)

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "manifests:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	check := len(args) == 1 && args[0] == "--check"
	if len(args) > 0 && !check {
		return fmt.Errorf("usage: manifests [--check]")
	}
	c, err := chart.In(".")
	if err != nil {
		return err
	}
	if !check {
		return c.Write(ctx)
	}
	drift, err := c.Drift(ctx)
	if err != nil {
		return err
	}
	for _, line := range drift {
		fmt.Println(line)
	}
	if len(drift) > 0 {
		return fmt.Errorf("%d files are not what deploy/helm/holdfast says: run make manifests", len(drift))
	}
	return nil
}
