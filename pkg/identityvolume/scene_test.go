package identityvolume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/credential"
	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/pkg/podtoken"
	"github.com/holdfast-csi/holdfast/test/fakevault"
	"github.com/holdfast-csi/holdfast/test/issuer"
	"github.com/holdfast-csi/holdfast/test/roottest"
)

func TestMain(m *testing.M) { roottest.Main(m) }

// scene is a node with kubelet's directory, a Vault, and the service.
type scene struct {
	*Server
	t       *testing.T
	vault   *fakevault.Server
	issuer  *issuer.Issuer
	kubelet string
	stop    func()
	// toldOfSwap says that the administrator was told that files may be swapped out.
	toldOfSwap atomic.Bool
	// ahead is by how much the service's clock is ahead of Vault's.
	ahead atomic.Int64

	mu      sync.Mutex
	notices []string
}

// quick is a pace for tests.
func quick() *Pace {
	return &Pace{Poll: 10 * time.Millisecond, FirstRetry: 10 * time.Millisecond, MaxRetry: 100 * time.Millisecond, Confirm: 150 * time.Millisecond, ConfirmLogin: 300 * time.Millisecond}
}

func newScene(t *testing.T) *scene {
	t.Helper()
	roottest.Require(t)
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s := &scene{t: t, vault: fakevault.New(false), issuer: issuer.New(), kubelet: filepath.Join(dir, "kubelet"), stop: func() {}}
	t.Cleanup(s.vault.Close)
	if err := os.Mkdir(s.kubelet, 0o755); err != nil {
		t.Fatal(err)
	}
	s.vault.Put("secret/data/shop", map[string]any{"password": "first", "user": "app"})
	t.Cleanup(func() {
		s.stop()
		infos, err := mount.List()
		if err != nil {
			t.Error(err)
		}
		for _, i := range slices.Backward(infos) {
			if strings.HasPrefix(i.Path, dir+"/") {
				if err := unix.Unmount(i.Path, unix.MNT_DETACH); err != nil {
					t.Errorf("unmount %s: %v", i.Path, err)
				}
			}
		}
	})
	s.start()
	return s
}

// start starts the service, in place of the one that runs, as after a restart of the
// driver.
func (s *scene) start() {
	s.t.Helper()
	s.stop()
	root, err := mount.OpenRoot(s.kubelet)
	if err != nil {
		s.t.Fatal(err)
	}
	sources, err := credential.Parse([]byte(fmt.Sprintf(`
sources:
  main:
    vault:
      address: %q
      ca: %q
      audience: vault
      auth: {method: kubernetes, role: web}
  self: {token: {audience: self}}
`, s.vault.URL, s.vault.ServerCA())))
	if err != nil {
		s.t.Fatal(err)
	}
	s.Server = New(Config{NodeID: "node-1", Kubelet: root, Sources: sources, Pace: quick(), Swappable: func() { s.toldOfSwap.Store(true) }, Notice: func(pod podtoken.Pod, reason Reason, text string) {
		if strings.Contains(text, "\n") {
			s.t.Errorf("a notice has more than one line: %q", text)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.notices = append(s.notices, fmt.Sprintf("%s %s: %s", pod, reason, text))
	}})
	s.now = func() time.Time { return time.Now().Add(time.Duration(s.ahead.Load())) }
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	server := s.Server
	go func() {
		defer close(done)
		server.Run(ctx)
	}()
	s.stop = sync.OnceFunc(func() {
		cancel()
		<-done
		root.Close()
	})
}

func (s *scene) said(reason Reason) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []string
	for _, n := range s.notices {
		if strings.Contains(n, " "+string(reason)+": ") {
			found = append(found, n)
		}
	}
	return found
}

func podNamed(name string) podtoken.Pod {
	return podtoken.Pod{Namespace: "shop", Name: name, UID: "uid-of-" + name, ServiceAccount: "web"}
}

func (s *scene) target(pod podtoken.Pod) string {
	return filepath.Join(s.kubelet, "pods", pod.UID, "volumes/kubernetes.io~csi/creds/mount")
}

// passwordOnly are the attributes of most volumes here.
func passwordOnly() map[string]string {
	return map[string]string{
		AttributeSource: "main", AttributeCredentials: "app: {engine: kv, mount: secret, path: shop}", AttributeFiles: "password: app.password",
	}
}

func with(attributes map[string]string, pairs ...string) map[string]string {
	for i := 0; i < len(pairs); i += 2 {
		attributes[pairs[i]] = pairs[i+1]
	}
	return attributes
}

// request is what kubelet sends for a pod, with new tokens.
func (s *scene) request(pod podtoken.Pod, attributes map[string]string) *csi.NodePublishVolumeRequest {
	s.t.Helper()
	if err := os.MkdirAll(filepath.Dir(s.target(pod)), 0o750); err != nil {
		s.t.Fatal(err)
	}
	volumeContext := issuer.Context(pod)
	for k, v := range attributes {
		volumeContext[k] = v
	}
	return &csi.NodePublishVolumeRequest{
		VolumeId: "csi-" + pod.Name, TargetPath: s.target(pod), VolumeContext: volumeContext, Readonly: true,
		VolumeCapability: &csi.VolumeCapability{
			AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
			AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{VolumeMountGroup: "2000"}},
		},
		Secrets: map[string]string{podtoken.KeyTokens: issuer.Tokens(map[string]string{
			"vault": s.issuer.Token(pod, "vault", time.Hour), "self": s.issuer.Token(pod, "self", time.Hour),
		})},
	}
}

func (s *scene) publish(pod podtoken.Pod, attributes map[string]string) error {
	s.t.Helper()
	_, err := s.NodePublishVolume(s.t.Context(), s.request(pod, attributes))
	return err
}

func (s *scene) mustPublish(pod podtoken.Pod, attributes map[string]string) {
	s.t.Helper()
	if err := s.publish(pod, attributes); err != nil {
		s.t.Fatal(err)
	}
}

func (s *scene) unpublish(pod podtoken.Pod) error {
	_, err := s.NodeUnpublishVolume(context.Background(), &csi.NodeUnpublishVolumeRequest{VolumeId: "csi-" + pod.Name, TargetPath: s.target(pod)})
	return err
}

func (s *scene) file(pod podtoken.Pod, name string) string {
	text, err := os.ReadFile(filepath.Join(s.target(pod), name))
	if err != nil {
		return "error: " + err.Error()
	}
	return string(text)
}

func (s *scene) wantFile(pod podtoken.Pod, name, want string) {
	s.t.Helper()
	if got := s.file(pod, name); got != want {
		s.t.Errorf("%s holds %q, want %q", name, got, want)
	}
}

// eventually waits for something, while kubelet publishes the pod's volume again and
// again.
func (s *scene) eventually(pod podtoken.Pod, attributes map[string]string, what string, holds func() bool) {
	s.t.Helper()
	for end := time.Now().Add(20 * time.Second); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatalf("did not happen: %s; notices: %q", what, s.notices)
		}
		if attributes != nil {
			s.mustPublish(pod, attributes)
		}
	}
}

// at is the mount seen at a pod's target.
func (s *scene) at(pod podtoken.Pod) mount.Info {
	s.t.Helper()
	infos, err := mount.List()
	if err != nil {
		s.t.Fatal(err)
	}
	layers := mount.At(infos, s.target(pod))
	if len(layers) != 1 {
		s.t.Fatalf("%d mounts at %s", len(layers), s.target(pod))
	}
	return layers[0]
}

// after is eventually some time later by the service's clock. Vault's, and so what
// lives there, stays as it is.
func (s *scene) after(d time.Duration, pod podtoken.Pod, attributes map[string]string, what string, holds func() bool) {
	s.t.Helper()
	s.ahead.Store(int64(d))
	s.eventually(pod, attributes, what, holds)
	s.ahead.Store(0)
}

// wantNothing demands that there is neither mount nor target.
func (s *scene) wantNothing(pod podtoken.Pod) {
	s.t.Helper()
	if _, err := os.Lstat(s.target(pod)); !errors.Is(err, os.ErrNotExist) {
		s.t.Errorf("the target is there: %v", err)
	}
}

func wantErr(t testing.TB, err, want error, says string) {
	t.Helper()
	if !errors.Is(err, want) || !strings.Contains(fmt.Sprint(err), says) {
		t.Errorf("got error %v, want %v with %q", err, want, says)
	}
}
