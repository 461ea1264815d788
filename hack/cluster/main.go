// Command cluster starts and removes the one-node Kubernetes of package
// test/cluster, for `make cluster`, `make cluster-down` and `make e2e`.
//
// up may be repeated: it starts what does not run and brings the driver of this
// tree onto the cluster. build builds what up needs, and no more. vault builds the Vault
// that tests start, and prints its path. down removes every trace in whatever state
// things are. It refuses a machine that is a node of another cluster.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/holdfast-csi/holdfast/test/cluster"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	verb := ""
	if len(args) == 1 {
		verb = args[0]
	}
	switch verb {
	case "up":
		c, err := cluster.Up(ctx, os.Stdout)
		if err != nil {
			return err
		}
		next(c)
		return nil
	case "build":
		return cluster.Build(ctx, os.Stdout)
	case "vault":
		program, err := cluster.BuildVault(ctx, os.Stderr)
		if err == nil {
			fmt.Println(program)
		}
		return err
	case "down":
		return cluster.Down(ctx)
	case "status":
		if _, err := cluster.Open(); err != nil {
			return err
		}
		fmt.Println("running")
		return nil
	}
	return fmt.Errorf("usage: cluster build|vault|up|down|status")
}

// next says what to do with the cluster.
func next(c *cluster.Cluster) {
	config, kubectl := c.Kubeconfig()
	fmt.Printf(`
A one-node Kubernetes with Holdfast is running. To use it:

  export KUBECONFIG=%s PATH=%s:$PATH
  kubectl get storageclass,pods -A
  kubectl apply -f deploy/examples/deployment.yaml

The README's quick start shows a snapshot, a restore and a resize.
make cluster-down removes every trace, volumes included.
`, config, filepath.Dir(kubectl))
}
