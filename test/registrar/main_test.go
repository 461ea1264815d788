package main

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// named is a driver that says its name.
type named struct {
	csi.UnimplementedIdentityServer
}

func (named) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: "csi.example.org"}, nil
}

func serveDriver(t *testing.T, socket string) {
	t.Helper()
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	csi.RegisterIdentityServer(server, named{})
	go func() { _ = server.Serve(l) }() // ends with the Stop below
	t.Cleanup(server.Stop)
}

// start runs a registrar in a directory and returns kubelet's connection to it and
// how it ends.
func start(ctx context.Context, t *testing.T, dir string) (registration.RegistrationClient, <-chan error) {
	t.Helper()
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, []string{
			"--csi-address=" + filepath.Join(dir, "csi.sock"), "--plugin-registration-path=" + dir,
			"--kubelet-registration-path=/plugins/csi.sock", "--v=2",
		})
	}()
	conn, err := grpc.NewClient("unix://"+filepath.Join(dir, "csi.example.org-reg.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return registration.NewRegistrationClient(conn), ended
}

func TestKubeletLearnsOfTheDriver(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	socket := filepath.Join(dir, "csi.example.org-reg.sock")
	if err := os.WriteFile(socket, nil, 0o600); err != nil { // what a killed one leaves
		t.Fatal(err)
	}
	kubelet, ended := start(ctx, t, dir)
	time.Sleep(10 * time.Millisecond) // the driver starts after its registrar
	serveDriver(t, filepath.Join(dir, "csi.sock"))

	info, err := kubelet.GetInfo(ctx, &registration.InfoRequest{}, grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	if info.GetType() != registration.CSIPlugin || info.GetName() != "csi.example.org" || info.GetEndpoint() != "/plugins/csi.sock" {
		t.Errorf("kubelet was told %v", info)
	}
	if _, err := kubelet.NotifyRegistrationStatus(ctx, &registration.RegistrationStatus{PluginRegistered: true}); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		t.Fatalf("it ended although the driver was registered: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("it ended with %v, asked to end", err)
	}
	if _, err := os.Lstat(socket); !os.IsNotExist(err) {
		t.Errorf("it left its socket behind: %v", err)
	}
}

func TestARefusalEndsIt(t *testing.T) {
	dir := t.TempDir()
	serveDriver(t, filepath.Join(dir, "csi.sock"))
	kubelet, ended := start(t.Context(), t, dir)
	status := &registration.RegistrationStatus{Error: "the driver is starting"}
	if _, err := kubelet.NotifyRegistrationStatus(t.Context(), status, grpc.WaitForReady(true)); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "the driver is starting") {
		t.Errorf("it ended with %v, which does not say why", err)
	}
}
