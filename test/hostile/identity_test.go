package hostile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/pkg/podtoken"
	"github.com/holdfast-csi/holdfast/test/fakevault"
	"github.com/holdfast-csi/holdfast/test/harness"
	"github.com/holdfast-csi/holdfast/test/issuer"
)

// TestCredentialsOfPodsStayInside runs the driver of identity volumes at its highest
// verbosity, has everything go wrong that can, and looks for tokens, logins and what
// was read in everything that leaves the process: answers, log, metrics, the disk, what
// the kernel shows to others, and the stacks of all goroutines.
func TestCredentialsOfPodsStayInside(t *testing.T) {
	vault := fakevault.New(true)
	defer vault.Close()
	password := canaryWord + "-password"
	vault.Put("secret/data/shop", map[string]any{"password": password, "pin": canaryWord[:4]})
	box := harness.NewBox(t, 0)
	sources := filepath.Join(t.TempDir(), "sources.yaml")
	text := fmt.Sprintf("sources: {vault: {vault: {address: %q, audience: vault, auth: {method: kubernetes, role: web}}}, token: {token: {audience: vault}}}", vault.URL)
	if err := os.WriteFile(sources, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	box.Flags = []string{"--mode=identity", "--identity-sources=" + sources, "--http-endpoint=127.0.0.1:0"}
	driver := box.Start()

	sign := issuer.New()
	pod := podtoken.Pod{Namespace: "shop", Name: "web-0", UID: "0b6f1c7e-5f0b-4a54-9d43-0d6a8a4a1f10", ServiceAccount: "web"}
	target := filepath.Join(box.Kubelet(), "pods", pod.UID, "volumes/kubernetes.io~csi/c/mount")
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		t.Fatal(err)
	}
	var said, earlier strings.Builder
	var tokens []string
	publish := func(change func(*csi.NodePublishVolumeRequest)) error {
		token := sign.Token(pod, "vault", time.Hour)
		tokens = append(tokens, token)
		volumeContext := issuer.Context(pod)
		for k, v := range map[string]string{
			"source": "vault", "credentials": "app: {engine: kv, mount: secret, path: shop}", "onExpiry": "fence",
			"files": "password: app.password\nini: {template: \"p={{ .app.password }}\"}",
		} {
			volumeContext[k] = v
		}
		req := &csi.NodePublishVolumeRequest{
			VolumeId: "csi-0123", TargetPath: target, VolumeContext: volumeContext,
			VolumeCapability: &csi.VolumeCapability{AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}}},
			Secrets:          map[string]string{podtoken.KeyTokens: issuer.Tokens(map[string]string{"vault": token})},
		}
		change(req)
		_, err := driver.Node.NodePublishVolume(t.Context(), req)
		said.WriteString(fmt.Sprintln(err))
		return err
	}
	attribute := func(key, value string) func(*csi.NodePublishVolumeRequest) {
		return func(r *csi.NodePublishVolumeRequest) { r.VolumeContext[key] = value }
	}
	asItIs := func(*csi.NodePublishVolumeRequest) {}
	inContext := func(r *csi.NodePublishVolumeRequest) {
		r.VolumeContext[podtoken.KeyTokens], r.Secrets = r.Secrets[podtoken.KeyTokens], nil
	}

	// Refused, in every way that has a token or a secret at hand.
	vault.Verify = func(_, jwt string) string { return "cannot verify " + jwt }
	for name, change := range map[string]func(*csi.NodePublishVolumeRequest){
		"login": asItIs, "login with the tokens in the context": inContext,
		"half a token": func(r *csi.NodePublishVolumeRequest) {
			r.Secrets[podtoken.KeyTokens] = r.Secrets[podtoken.KeyTokens][:300]
		},
		"a token for a source": func(r *csi.NodePublishVolumeRequest) { r.VolumeContext["source"] = tokens[len(tokens)-1] },
		"a token for a path": func(r *csi.NodePublishVolumeRequest) {
			r.VolumeContext["credentials"] = "a: {path: \"" + tokens[len(tokens)-1] + "\"}"
		},
		"a token for the volume id": func(r *csi.NodePublishVolumeRequest) { r.VolumeId = tokens[len(tokens)-1] },
	} {
		if publish(change) == nil {
			t.Errorf("%s: it was published", name)
		}
	}
	vault.Verify = func(string, string) string { return "" }
	for _, template := range []string{
		`x: {template: "{{ index .app.password 9999 }}"}`, `x: {template: "{{ .app.password.more }}"}`, `x: {template: "{{ call .app.password }}"}`,
		`x: {template: "{{ slice .app.password 9999 }}"}`, `x: {template: "{{ indent 5 .app.password | indent 99 }}"}`, `x: {template: "{{ len 3 }}{{ .app.password }}"}`,
	} {
		if publish(attribute("files", template)) == nil {
			t.Errorf("%s: it was published", template)
		}
	}
	// Published, then refreshed while Vault quotes, garbles, refuses, and is away.
	if err := publish(asItIs); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(target + "/ini"); err != nil || string(got) != "p="+password {
		t.Fatalf("the file holds %q, %v", got, err)
	}
	for _, answer := range []string{`{"data":{"data":{"password":"` + password, password, `{"errors":["` + password[:len(canaryWord)-1] + `"]}`} {
		vault.Misbehave(func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = io.WriteString(w, answer)
			return true
		})
		// A driver that has just started refreshes at once.
		driver.Stop()
		earlier.WriteString(driver.Log())
		driver = box.Start()
		for range 3 {
			if err := publish(asItIs); err != nil {
				t.Errorf("a republish: %v", err)
			}
			time.Sleep(time.Second)
		}
	}
	vault.Misbehave(nil)

	// The records of the disk before the files go; the files themselves are on a tmpfs.
	disk := treeText(t, box.Dir, target)
	metrics := metricsOf(t, driver.Log())
	if _, err := driver.Node.NodeUnpublishVolume(t.Context(), &csi.NodeUnpublishVolumeRequest{VolumeId: "csi-0123", TargetPath: target}); err != nil {
		t.Error(err)
	}
	if err := publish(asItIs); err != nil {
		t.Error(err)
	}
	proc := fmt.Sprintf("/proc/%d/", driver.PID())
	shown := ""
	for _, name := range []string{"cmdline", "environ", "mountinfo", "status"} {
		content, err := os.ReadFile(proc + name)
		if err != nil {
			t.Fatal(err)
		}
		shown += string(content)
	}
	// CAP_SYS_ADMIN and CAP_CHOWN, and nothing to gain.
	for _, want := range []string{"CapEff:\t0000000000200001\n", "CapBnd:\t0000000000200001\n", "NoNewPrivs:\t1\n", "Seccomp:\t2\n"} {
		if !strings.Contains(shown, want) {
			t.Errorf("the driver is not confined: its status has no %q", want)
		}
	}
	// All stacks, as after a crash.
	if err := syscall.Kill(driver.PID(), syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	if err := driver.WaitKilled(10 * time.Second); err != nil {
		t.Error(err)
	}
	log := earlier.String() + driver.Log()
	for _, want := range []string{"method=NodePublishVolume", "CredentialRefreshFailed", "goroutine ", "request="} {
		if !strings.Contains(log, want) {
			t.Errorf("the log has no %q: this looks in the wrong place", want)
		}
	}
	for where, text := range map[string]string{"answers": said.String(), "log": log, "metrics": metrics, "disk": disk, "what the kernel shows": shown} {
		for line := range strings.Lines(text) {
			secret := strings.Contains(line, canaryWord) || strings.Contains(line, "hvs.login")
			for _, token := range tokens {
				signature := token[strings.LastIndex(token, ".")+1:]
				secret = secret || strings.Contains(line, signature[:16])
			}
			if secret {
				t.Errorf("a secret shows in the %s: %.1000s", where, line)
			}
		}
	}
}

// treeText are the names and the content of what is below a directory, but for one
// directory in it.
func treeText(t *testing.T, dir, without string) string {
	t.Helper()
	var text strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case path == without:
			return fs.SkipDir
		case errors.Is(err, fs.ErrNotExist) && path != dir:
			return nil // gone since it was listed
		case err != nil:
			return err
		}
		text.WriteString(path + "\n")
		if !d.Type().IsRegular() {
			return nil
		}
		content, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		text.Write(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return text.String()
}

// metricsOf is the page of a driver's metrics, whose address is in its log.
func metricsOf(t *testing.T, log string) string {
	t.Helper()
	s := &scene{t: t}
	return s.metrics(log)
}
