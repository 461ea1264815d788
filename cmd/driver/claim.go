package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/pflag"

	"github.com/holdfast-csi/holdfast/pkg/cluster"
	"github.com/holdfast-csi/holdfast/pkg/rpc"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// claimPatience is how long an API server that does not answer is asked again
// before the command fails; kubelet then starts it anew.
const claimPatience = 2 * time.Minute

// claimInterval is the time between two questions.
const claimInterval = 2 * time.Second

// runClaimNode is what the init container does: two drivers would each believe to
// be the only one, and the sidecars beside each would serve every claim.
func runClaimNode(ctx context.Context, args []string, out io.Writer) error {
	fs := pflag.NewFlagSet("driver claim-node", pflag.ContinueOnError)
	host, _ := os.Hostname() // without one the flag must be given
	node := fs.String("node-id", host, "the name of this node, as Kubernetes knows it")
	var pod string
	addPod(fs, &pod)
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("%w: unexpected argument %q", volume.ErrInvalid, fs.Arg(0))
	}
	if *node == "" || pod == "" {
		return fmt.Errorf("%w: --node-id and --pod must be given", volume.ErrInvalid)
	}
	client, err := connect(pod, *node)
	if err != nil {
		return err
	}
	logger := newLogger(0)
	err = claim(ctx, client, *node, logger)
	if errors.Is(err, volume.ErrInUse) {
		report := &reporter{logger: logger, events: client.Events(cluster.EventsConfig{Redact: rpc.Redact, Logger: logger})}
		stop := report.start()
		report.warn(cluster.NodeRefused, err.Error())
		stop()
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "node %s has the claim\n", *node)
	return err
}

// claim asks until there is an answer. If the time is up before, the error is the
// last one that is not about the time.
func claim(ctx context.Context, client *cluster.Client, node string, logger *slog.Logger) error {
	ctx, cancel := context.WithTimeout(ctx, claimPatience)
	defer cancel()
	said := ""
	var last error
	for {
		err := client.ClaimNode(ctx, node)
		if err != nil && ctx.Err() != nil && last != nil {
			return last
		}
		if !errors.Is(err, volume.ErrUnavailable) {
			return err
		}
		last = err
		if text := err.Error(); text != said {
			logger.Warn("the API server does not answer; asking again", "error", text)
			said = text
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(claimInterval):
		}
	}
}
