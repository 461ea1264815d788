// Command registrar stands in for upstream's node-driver-registrar where its image
// cannot be had: it tells kubelet about a CSI driver.
//
// It promises what the manifests and the tests rely on: the same flags, the same
// socket in kubelet's registration directory, and the same end with status 1 when
// kubelet could not register the driver, so that a restart tries again. It refuses
// to be more: it has no probes and no metrics, and is in no image that is published.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil && ctx.Err() == nil {
		slog.Error("registrar", "err", err)
		os.Exit(1)
	}
}

// run registers the driver and stays until ctx ends or kubelet refuses the driver;
// its error is the reason.
func run(ctx context.Context, args []string) error {
	flags := pflag.NewFlagSet("registrar", pflag.ContinueOnError)
	address := flags.String("csi-address", "/run/csi/socket", "the driver's socket, as this process sees it")
	endpoint := flags.String("kubelet-registration-path", "", "the driver's socket, as kubelet sees it")
	dir := flags.String("plugin-registration-path", "/registration", "the directory that kubelet watches")
	flags.Int("v", 0, "the log level of upstream's, without effect here")
	if err := flags.Parse(args); err != nil {
		return err
	}
	name, err := driverName(ctx, *address)
	if err != nil {
		return err
	}
	// Only root may register, as upstream has it.
	unix.Umask(0o077)
	socket := filepath.Join(*dir, name+"-reg.sock")
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the socket that a registrar before this one left: %w", err)
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "unix", socket)
	if err != nil {
		return fmt.Errorf("listen for kubelet: %w", err)
	}
	end, refuse := context.WithCancelCause(ctx)
	defer refuse(nil)
	server := grpc.NewServer()
	registration.RegisterRegistrationServer(server, &registrar{
		info: &registration.PluginInfo{
			Type: registration.CSIPlugin, Name: name, Endpoint: *endpoint, SupportedVersions: []string{"1.0.0"},
		},
		refuse: refuse,
	})
	go func() {
		<-end.Done()
		// It waits for kubelet's call to be answered, and removes the socket.
		server.GracefulStop()
	}()
	slog.Info("waiting for kubelet", "driver", name, "socket", socket)
	if err := server.Serve(listener); err != nil {
		return fmt.Errorf("serve kubelet on %s: %w", socket, err)
	}
	return context.Cause(end)
}

// driverName asks the driver for its name until it answers.
func driverName(ctx context.Context, address string) (string, error) {
	conn, err := grpc.NewClient("unix://"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return "", fmt.Errorf("connect to the driver at %s: %w", address, err)
	}
	defer conn.Close()
	for {
		info, err := csi.NewIdentityClient(conn).GetPluginInfo(ctx, &csi.GetPluginInfoRequest{})
		if err == nil {
			return info.GetName(), nil
		}
		slog.Info("the driver does not answer yet", "socket", address, "err", err)
		select {
		case <-ctx.Done():
			return "", context.Cause(ctx)
		case <-time.After(time.Second):
		}
	}
}

// registrar answers kubelet.
type registrar struct {
	registration.UnimplementedRegistrationServer

	info   *registration.PluginInfo
	refuse context.CancelCauseFunc
}

// GetInfo says which driver there is, and where.
func (r *registrar) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return r.info, nil
}

// NotifyRegistrationStatus is kubelet's answer.
func (r *registrar) NotifyRegistrationStatus(_ context.Context, status *registration.RegistrationStatus) (*registration.RegistrationStatusResponse, error) {
	slog.Info("kubelet has answered", "registered", status.GetPluginRegistered(), "err", status.GetError())
	if !status.GetPluginRegistered() {
		r.refuse(fmt.Errorf("kubelet did not register the driver: %s", status.GetError()))
	}
	return &registration.RegistrationStatusResponse{}, nil
}
