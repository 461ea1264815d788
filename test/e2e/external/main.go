// Command external runs upstream's storage tests ("External.Storage" of the
// Kubernetes project) against the driver on the cluster that runs, and writes what
// came of it.
//
//	external build                 build them, which needs no cluster
//	external run [flags]           run them, several at a time
//	external page -out FILE DIR... write a page from the results of runs
//
// A run leaves its results in a directory: the JUnit file as the tests write it,
// their log, what it ran on, and a last line that counts. It promises to run the
// tests as upstream made them, against what a user installs: it chooses tests and
// never changes one. What fails, fails, whatever the cause; causes.yaml says why,
// for the page, and a failure or a skipped test without a cause there is an error.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/holdfast-csi/holdfast/test/cluster"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := dispatch(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "external:", err)
		os.Exit(1)
	}
}

func dispatch(ctx context.Context, args []string) error {
	if len(args) > 0 {
		switch args[0] {
		case "build":
			_, err := cluster.BuildSuite(ctx, os.Stdout)
			return err
		case "run":
			return run(ctx, args[1:])
		case "page":
			return page(args[1:])
		case "systemctl": // for the tests that log in to the node
			return systemctl(ctx, args[1:])
		}
	}
	return fmt.Errorf("usage: external build|run|page [flags]; -h tells the flags")
}
