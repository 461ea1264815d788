package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/holdfast-csi/holdfast/test/roottest"
)

func TestMain(m *testing.M) { roottest.Main(m) }

// place is where a driver may be told to mount.
func place(t *testing.T, flags uintptr) string {
	t.Helper()
	roottest.Require(t)
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	// A slave is what was shared with somebody: with the next line's clone.
	if flags == unix.MS_SLAVE {
		peer := place(t, unix.MS_SHARED)
		if err := unix.Mount(peer, dir, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(dir, 0); err != nil {
				t.Error(err)
			}
		})
	}
	if err := unix.Mount("", dir, "", flags, ""); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestMountsMustBeShared(t *testing.T) {
	shared, private, slave := place(t, unix.MS_SHARED), place(t, unix.MS_PRIVATE), place(t, unix.MS_SLAVE)
	for name, tc := range map[string]struct {
		kubelet string
		pools   []string
		want    []string // words of the error; none: all is well
	}{
		"all shared":                       {shared, []string{shared + "/default", "hdd=" + shared + "/some/hdd"}, nil},
		"kubelet's is private":             {private, []string{shared + "/default"}, []string{"--kubelet-dir=" + private, "is private", "mountPath: " + private + " mountPropagation: Bidirectional"}},
		"a pool's is HostToContainer":      {shared, []string{"hdd=" + slave + "/hdd"}, []string{"--pool=" + slave + "/hdd", "is slave", "mountPath: " + slave + " "}},
		"one of two pools has no volume":   {shared, []string{shared, "/srv/none/at/all"}, []string{"--pool=/srv/none/at/all", "no volume", "Bidirectional"}},
		"two are wrong, and both are told": {private, []string{slave}, []string{private, slave}},
	} {
		err := checkShared(options{kubeletDir: tc.kubelet, pools: poolOptions{dirs: tc.pools}})
		if err == nil != (len(tc.want) == 0) {
			t.Errorf("%s: got %v", name, err)
		}
		for _, words := range tc.want {
			if err != nil && !strings.Contains(err.Error(), words) {
				t.Errorf("%s: the error does not say %q: %v", name, words, err)
			}
		}
		if err != nil && strings.Contains(err.Error(), "="+shared) {
			t.Errorf("%s: the error accuses %s: %v", name, shared, err)
		}
	}
}

// serving runs a driver in this process and connects to it, ready or not.
func serving(t *testing.T, kubelet, pool string) (conn *grpc.ClientConn, http string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "s")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	// On an address of its own (all of 127/8 is this machine): nobody takes the port
	// meanwhile.
	free, err := net.Listen("tcp", fmt.Sprintf("127.%d.%d.%d:0", 1+rand.N(254), rand.N(256), 1+rand.N(254)))
	if err != nil {
		t.Fatal(err)
	}
	http = free.Addr().String()
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	socket := "unix://" + filepath.Join(dir, "csi.sock")
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- runServe(ctx, []string{
			"--endpoint=" + socket, "--node-id=node-1", "--kubelet-dir=" + kubelet, "--state-dir=" + filepath.Join(dir, "state"),
			"--pool=" + pool, "--pool-size=600Mi", "--host-reserve=1", "--http-endpoint=" + http, "--require-shared-mounts",
		}, io.Discard)
	}()
	conn, err = grpc.NewClient(socket, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		stop()
		if err := <-ended; err != nil {
			t.Errorf("the driver ended with %v", err)
		}
	})
	return conn, http
}

func ask(t *testing.T, url string) (code int, text string) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		resp, err := http.Get(url)
		if err != nil && time.Now().Before(end) {
			continue // CSI may be served a moment before HTTP
		}
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
}

func TestADriverWhoseMountsTheHostDoesNotSeeServesNothingAndStays(t *testing.T) {
	kubelet, pools := place(t, unix.MS_SHARED), place(t, unix.MS_PRIVATE)
	conn, address := serving(t, kubelet, pools+"/default")
	probe, err := csi.NewIdentityClient(conn).Probe(t.Context(), &csi.ProbeRequest{})
	if err != nil || probe.GetReady().GetValue() {
		t.Errorf("Probe: %v, %v", probe, err)
	}
	_, info := csi.NewNodeClient(conn).NodeGetInfo(t.Context(), &csi.NodeGetInfoRequest{})
	_, create := csi.NewControllerClient(conn).CreateVolume(t.Context(), &csi.CreateVolumeRequest{Name: "pvc-1"})
	for call, err := range map[string]error{"NodeGetInfo": info, "CreateVolume": create} {
		if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "mountPath: "+pools) {
			t.Errorf("%s: %v", call, err)
		}
	}
	if code, text := ask(t, fmt.Sprintf("http://%s/readyz", address)); code != http.StatusServiceUnavailable || !strings.Contains(text, "Bidirectional") {
		t.Errorf("/readyz: %d %q", code, text)
	}
	if code, _ := ask(t, fmt.Sprintf("http://%s/healthz", address)); code != http.StatusOK {
		t.Errorf("/healthz: %d", code)
	}
	if made, err := os.ReadDir(pools); err != nil || len(made) > 0 {
		t.Errorf("something was made: %v, %v", made, err)
	}
}

func TestADriverWhosePoolCannotBeMadeIsReadyAndSaysWhy(t *testing.T) {
	place := place(t, unix.MS_SHARED) // too small for the pool image
	conn, address := serving(t, place, place+"/default")
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		probe, err := csi.NewIdentityClient(conn).Probe(t.Context(), &csi.ProbeRequest{})
		if err == nil && probe.GetReady().GetValue() {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("Probe: %v, %v", probe, err)
		}
	}
	if code, text := ask(t, fmt.Sprintf("http://%s/readyz", address)); code != http.StatusOK {
		t.Errorf("/readyz: %d %q", code, text)
	}
	// There never was a pool here: kubelet must ask again.
	if _, err := csi.NewNodeClient(conn).NodeGetInfo(t.Context(), &csi.NodeGetInfoRequest{}); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "--pool-size") {
		t.Errorf("NodeGetInfo: %v", err)
	}
}
