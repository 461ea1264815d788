// Command populator stands in for upstream's hello-populator where its image cannot
// be had: it fills the volumes of claims whose data source is a Hello, an object that
// names a file and its content, as upstream's test of volume populators wants it.
//
// It promises what every populator does: a claim of its own gets the volume, a pod
// fills it, and then the volume is handed to the user's claim. It has the flags of
// upstream's program and needs no more rights than that. It refuses raw block
// volumes, and it is in no image that is published.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "populator:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("populator", flag.ContinueOnError)
	mode := flags.String("mode", "", "controller looks after claims, populate writes one file")
	image := flags.String("image-name", "", "the image of this program, for the pods that populate")
	namespace := flags.String("namespace", "hello", "where the controller's own claims and pods are")
	fileName := flags.String("file-name", "", "the file to write")
	contents := flags.String("file-contents", "", "what to write to it")
	flags.String("http-endpoint", "", "upstream's address for metrics, of which there are none here")
	if err := flags.Parse(args); err != nil {
		return err
	}
	switch *mode {
	case "populate":
		return os.WriteFile(*fileName, []byte(*contents), 0o644)
	case "controller":
		config, err := rest.InClusterConfig()
		if err != nil {
			return err
		}
		client, err := kubernetes.NewForConfig(config)
		if err != nil {
			return err
		}
		objects, err := dynamic.NewForConfig(config)
		if err != nil {
			return err
		}
		return controller{client: client, objects: objects, namespace: *namespace, image: *image}.run(ctx)
	}
	return fmt.Errorf("--mode=%s: want controller or populate", *mode)
}

// run looks at all claims once a second.
func (c controller) run(ctx context.Context) error {
	for {
		if err := c.lookAtClaims(ctx); err != nil {
			slog.Error("claims wait", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
	}
}
