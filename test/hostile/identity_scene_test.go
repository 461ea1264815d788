package hostile

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/pkg/podtoken"
	"github.com/holdfast-csi/holdfast/test/fakevault"
	"github.com/holdfast-csi/holdfast/test/harness"
	"github.com/holdfast-csi/holdfast/test/issuer"
)

// fault answers a request in place of a service, if it says true.
type fault = func(http.ResponseWriter, *http.Request) bool

func asItIs(*csi.NodePublishVolumeRequest) {}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// identityScene is a driver of identity volumes with the services that it asks and the
// API server that gets its events.
type identityScene struct {
	t      *testing.T
	box    *harness.Box
	driver *harness.Driver
	vault  *fakevault.Server
	// exchange is what the token service does instead of answering.
	exchange atomic.Pointer[fault]
	api      *apiServer
	root     string // the driver's "/"
	sign     *issuer.Issuer

	said, earlier strings.Builder // answers, and the logs of drivers before this one

	mu     sync.Mutex
	tokens []string // mu
	read   []string // mu; what files had
}

func newIdentityScene(t *testing.T) *identityScene {
	t.Helper()
	s := &identityScene{t: t, vault: fakevault.New(true), box: harness.NewBox(t, 0), api: newAPIServer(t), sign: issuer.New()}
	t.Cleanup(s.vault.Close)
	s.vault.Put("secret/data/shop", map[string]any{"password": s.password(), "pin": canaryWord[:4]})
	exchange := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if fault := s.exchange.Load(); fault == nil || !(*fault)(w, r) {
			must(json.NewEncoder(w).Encode(map[string]any{"access_token": canaryWord + "-exchanged", "expires_in": 600}))
		}
	}))
	t.Cleanup(exchange.Close)
	sources := filepath.Join(t.TempDir(), "sources.yaml")
	text := fmt.Sprintf("sources: {vault: {vault: {address: %q, audience: vault, auth: {method: kubernetes, role: web}}}, oidc: {oidc: {tokenURL: %q, audience: vault}}, token: {token: {audience: vault}}}",
		s.vault.URL, exchange.URL+"/exchange")
	if err := os.WriteFile(sources, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s.box.Flags = []string{"--mode=identity", "--identity-sources=" + sources, "--http-endpoint=127.0.0.1:0"}
	s.root = s.api.inPod(t, s.box)
	s.driver = s.box.Start()
	return s
}

// volumes are what the pod asks for, by the name of the volume.
func (s *identityScene) volumes() map[string]map[string]string {
	return map[string]map[string]string{
		"vault": {
			"source": "vault", "onExpiry": "fence",
			"credentials": "app: {engine: kv, mount: secret, path: shop}\nweb: {engine: pki, mount: pki, role: web, with: {common_name: web}}\ndb: {engine: database, mount: database, role: app}",
			"files":       "password: app.password\nini: {template: \"p={{ .app.password }}\"}\nkey: web.private_key\ndb: db.password",
		},
		"oidc":  {"source": "oidc", "credentials": "it: {}", "files": "access: it.access_token"},
		"token": {"source": "token", "credentials": "it: {}", "files": "own: it.token"},
	}
}

func (s *identityScene) pod() podtoken.Pod {
	return podtoken.Pod{Namespace: "shop", Name: "web-0", UID: "0b6f1c7e-5f0b-4a54-9d43-0d6a8a4a1f10", ServiceAccount: "web"}
}

func (s *identityScene) target(volume string) string {
	return filepath.Join(s.box.Kubelet(), "pods", s.pod().UID, "volumes/kubernetes.io~csi", volume, "mount")
}

// publish publishes a volume with new tokens, as changed.
func (s *identityScene) publish(volume string, change func(*csi.NodePublishVolumeRequest)) error {
	s.t.Helper()
	if err := os.MkdirAll(filepath.Dir(s.target(volume)), 0o750); err != nil {
		s.t.Fatal(err)
	}
	token := s.sign.Token(s.pod(), "vault", time.Hour)
	s.mu.Lock()
	s.tokens = append(s.tokens, token)
	s.mu.Unlock()
	volumeContext := issuer.Context(s.pod())
	for k, v := range s.volumes()[volume] {
		volumeContext[k] = v
	}
	req := &csi.NodePublishVolumeRequest{
		VolumeId: "csi-" + volume, TargetPath: s.target(volume), VolumeContext: volumeContext, Readonly: true,
		VolumeCapability: &csi.VolumeCapability{AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}}},
		Secrets:          map[string]string{podtoken.KeyTokens: issuer.Tokens(map[string]string{"vault": token})},
	}
	change(req)
	_, err := s.driver.Node.NodePublishVolume(s.t.Context(), req)
	s.said.WriteString(fmt.Sprintln(err))
	return err
}

func (s *identityScene) restart() {
	s.t.Helper()
	s.driver.Stop()
	s.earlier.WriteString(s.driver.Log() + "\n")
	s.driver = s.box.Start()
}

func (s *identityScene) password() string { return canaryWord + "-password" }

func (s *identityScene) lastToken() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tokens[len(s.tokens)-1]
}

// mustHold demands that the files have what was asked for, and remembers it.
func (s *identityScene) mustHold() {
	s.t.Helper()
	files := map[string]string{}
	for _, name := range []string{"vault/password", "vault/ini", "vault/key", "vault/db", "oidc/access", "token/own"} {
		volume, file, _ := strings.Cut(name, "/")
		content, err := os.ReadFile(s.root + s.target(volume) + "/" + file)
		if err != nil {
			s.t.Fatal(err)
		}
		files[name] = string(content)
	}
	if files["vault/ini"] != "p="+s.password() || files["oidc/access"] != canaryWord+"-exchanged" || !strings.Contains(files["vault/key"], "PRIVATE KEY") {
		s.t.Fatalf("the files hold %q", files)
	}
	key := strings.Split(strings.TrimSpace(files["vault/key"]), "\n")
	s.mu.Lock()
	defer s.mu.Unlock()
	s.read = append(s.read, key[1], files["vault/db"])
}

// secrets are texts that must be seen nowhere.
func (s *identityScene) secrets() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := append([]string{canaryWord}, s.read...)
	for _, token := range s.tokens {
		signature := token[strings.LastIndex(token, ".")+1:]
		all = append(all, signature[:16])
	}
	return all
}

// shownByKernel is what everybody on the machine may see of the driver.
func (s *identityScene) shownByKernel() string {
	s.t.Helper()
	var text strings.Builder
	for _, name := range []string{"cmdline", "environ", "mountinfo", "status"} {
		content, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", s.driver.PID(), name))
		if err != nil {
			s.t.Fatal(err)
		}
		text.Write(content)
	}
	return text.String()
}
