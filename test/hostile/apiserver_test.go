package hostile

import (
	"bufio"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/test/harness"
)

// apiServer stands in for the API server to which a driver delivers its events. It
// takes everything and keeps it as it came.
type apiServer struct {
	*httptest.Server
	mu  sync.Mutex
	got strings.Builder
}

func newAPIServer(t *testing.T) *apiServer {
	s := &apiServer{}
	s.Server = httptest.NewTLSServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	s.mu.Lock()
	s.got.WriteString(r.Method + " " + r.URL.String() + " " + string(body) + "\n")
	s.mu.Unlock()
	if err != nil || r.Header.Get("Authorization") != "Bearer "+accountToken {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if r.Method == http.MethodPost {
		w.WriteHeader(http.StatusCreated)
	}
	_, _ = w.Write(body) // the driver may be gone
}

// events is all that was delivered.
func (s *apiServer) events() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.got.String()
}

// await waits until something was delivered that has this in it.
func (s *apiServer) await(t *testing.T, part string) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !strings.Contains(s.events(), part); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("no event with %q was delivered: %s", part, s.events())
		}
	}
}

// accountToken is the driver's own token, of its pod's service account.
const accountToken = "the-token-of-the-driver"

// inPod makes the drivers of a box run as in a pod whose API server this is: in a mount
// namespace, the same for all of them, that has the files of a service account. root is
// what they see at "/".
func (s *apiServer) inPod(t *testing.T, box *harness.Box) (root string) {
	t.Helper()
	account := t.TempDir()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	for name, text := range map[string]string{"token": accountToken, "namespace": "holdfast-system", "ca.crt": string(ca)} {
		if err := os.WriteFile(filepath.Join(account, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const script = `mount -t tmpfs tmpfs /var/run && mkdir -p /var/run/secrets/kubernetes.io && cp -r "$0" /var/run/secrets/kubernetes.io/serviceaccount && echo ready && exec sleep 900`
	holder := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c", script, account)
	holder.Stderr = os.Stderr
	out, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = holder.Process.Kill()
		_ = holder.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("make a mount namespace with a service account: %q, %v", line, err)
	}
	host, port, err := net.SplitHostPort(s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("KUBERNETES_SERVICE_HOST", host)
	t.Setenv("KUBERNETES_SERVICE_PORT", port)
	t.Setenv("POD_UID", "5c2f1d3e-0000-4000-8000-000000000000")
	proc := "/proc/" + strconv.Itoa(holder.Process.Pid)
	box.Wrap = []string{"nsenter", "--mount=" + proc + "/ns/mnt", "--"}
	box.Flags = append(box.Flags, "--pod=holdfast-system/holdfast-identity-x")
	return proc + "/root"
}
