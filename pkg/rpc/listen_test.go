package rpc

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"google.golang.org/grpc"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func TestEndpointIsASocketWithAnAbsolutePath(t *testing.T) {
	for endpoint, want := range map[string]string{
		"unix:///csi/csi.sock":                          "/csi/csi.sock",
		"unix:///csi/../run/x.sock":                     "/run/x.sock",
		"unix:/csi/csi.sock":                            "/csi/csi.sock",
		"unix:///" + strings.Repeat("a", 101) + ".sock": "/" + strings.Repeat("a", 101) + ".sock",
		"unix:///" + strings.Repeat("a", 102) + ".sock": "",
		"unix://csi/csi.sock":                           "",
		"unix://csi.sock":                               "",
		"unix:csi.sock":                                 "",
		"unix:///csi/csi":                               "",
		"unix:///csi/csi.sock?x=y":                      "",
		"unix:///csi/csi.sock#x":                        "",
		"/csi/csi.sock":                                 "",
		"tcp://127.0.0.1:1000":                          "",
		"tcp://127.0.0.1:1000/x.sock":                   "",
		"http://x/x.sock":                               "",
		"unix:///%zz.sock":                              "",
		"":                                              "",
	} {
		got, err := ParseEndpoint(endpoint)
		if got != want || (want == "") != errors.Is(err, volume.ErrInvalid) {
			t.Errorf("%q: got %q, %v", endpoint, got, err)
		}
	}
	if _, err := New(Config{Endpoint: "tcp://0.0.0.0:1"}, func(grpc.ServiceRegistrar) {}); !errors.Is(err, volume.ErrInvalid) {
		t.Errorf("got %v", err)
	}
}

func TestSocketOfACrashedDriverIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "csi.sock")
	old, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	old.SetUnlinkOnClose(false)
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := listen(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("beside the socket: %v, %v", entries, err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

func TestSocketThatSomebodyAnswersOnIsRefused(t *testing.T) {
	first := serve(t, newMemoryDriver(), nil)
	second, err := New(Config{Endpoint: "unix://" + first.socket}, func(grpc.ServiceRegistrar) {})
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Run(t.Context()); !errors.Is(err, volume.ErrInUse) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(first.socket); err != nil {
		t.Errorf("the socket of the first one: %v", err)
	}
}

func TestFileInPlaceOfTheSocketIsNotTouched(t *testing.T) {
	dir := t.TempDir()
	file, link := filepath.Join(dir, "file.sock"), filepath.Join(dir, "link.sock")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/nowhere/x.sock", link); err != nil {
		t.Fatal(err)
	}
	fifo := filepath.Join(dir, "fifo.sock")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, link, fifo} {
		if _, err := listen(path); !errors.Is(err, volume.ErrExists) {
			t.Errorf("%s: got %v", path, err)
		}
		if _, err := os.Lstat(path); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestMissingDirectoryIsNamed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "missing", "csi.sock")
	if _, err := listen(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v", err)
	}
}

func TestOfManyThatStartAtOnceOneServes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "csi.sock")
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	if err := stale.Close(); err != nil {
		t.Fatal(err)
	}
	listeners := make(chan net.Listener, 16)
	var starters sync.WaitGroup
	for range 16 {
		starters.Go(func() {
			l, err := listen(path)
			if err == nil {
				listeners <- l
			} else if !errors.Is(err, volume.ErrInUse) {
				t.Error(err)
			}
		})
	}
	starters.Wait()
	if len(listeners) != 1 {
		t.Errorf("%d listen", len(listeners))
	}
	for range len(listeners) {
		_ = (<-listeners).Close()
	}
}

func TestSocketIsRemovedAtTheEnd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "csi.sock")
	s, err := New(Config{Endpoint: "unix://" + path}, func(grpc.ServiceRegistrar) {})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	eventually(t, "the socket appears", func() bool { _, err := os.Stat(path); return err == nil })
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}
