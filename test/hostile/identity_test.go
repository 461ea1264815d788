package hostile

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/pkg/podtoken"
	"github.com/holdfast-csi/holdfast/test/fakevault"
)

// TestCredentialsOfPodsStayInside runs the driver of identity volumes at its highest
// verbosity, has everything go wrong that can, and looks for tokens, logins and what
// was read in everything that leaves the process: answers, log, events, metrics, the
// disk, what the kernel shows to others, and the stacks of all goroutines.
func TestCredentialsOfPodsStayInside(t *testing.T) {
	s := newIdentityScene(t)
	s.refused()
	// Published, then refreshed while the services quote what they were sent and what
	// they have, garble, refuse, and are away.
	for name := range s.volumes() {
		if err := s.publish(name, asItIs); err != nil {
			t.Fatal(err)
		}
	}
	s.mustHold()
	for _, fault := range s.faults() {
		s.vault.Misbehave(fault.answer)
		s.exchange.Store(&fault.answer)
		// A driver that has just started refreshes at once.
		s.restart()
		for range 2 {
			for name := range s.volumes() {
				if err := s.publish(name, asItIs); err != nil {
					t.Errorf("a republish: %v", err)
				}
			}
			time.Sleep(600 * time.Millisecond)
		}
		for _, said := range fault.said {
			s.api.await(t, said)
		}
	}
	s.vault.Misbehave(nil)
	s.exchange.Store(nil)

	// The records of the disk before the files go; the files themselves are on a tmpfs.
	disk := treeText(t, s.box.Dir, filepath.Join(s.box.Kubelet(), "pods"))
	metrics := metricsOf(t, s.driver.Log())
	for name := range s.volumes() {
		if _, err := s.driver.Node.NodeUnpublishVolume(t.Context(), &csi.NodeUnpublishVolumeRequest{VolumeId: "csi-" + name, TargetPath: s.target(name)}); err != nil {
			t.Error(err)
		}
		if err := s.publish(name, asItIs); err != nil {
			t.Error(err)
		}
	}
	s.mustHold()
	shown := s.shownByKernel()
	// CAP_SYS_ADMIN and CAP_CHOWN, and nothing to gain.
	for _, want := range []string{"CapEff:\t0000000000200001\n", "CapBnd:\t0000000000200001\n", "NoNewPrivs:\t1\n", "Seccomp:\t2\n"} {
		if !strings.Contains(shown, want) {
			t.Errorf("the driver is not confined: its status has no %q", want)
		}
	}
	for _, want := range []string{`"reason":"CredentialRefreshFailed"`, `"namespace":"shop","name":"web-0"`} {
		s.api.await(t, want)
	}
	// All stacks, as after a crash.
	if err := syscall.Kill(s.driver.PID(), syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	if err := s.driver.WaitKilled(10 * time.Second); err != nil {
		t.Error(err)
	}
	log := s.earlier.String() + s.driver.Log()
	for _, want := range []string{"method=NodePublishVolume", "CredentialRefreshFailed", "goroutine ", "request="} {
		if !strings.Contains(log, want) {
			t.Errorf("the log has no %q: this looks in the wrong place", want)
		}
	}
	// Vault's logins, the driver's own token, and what is left of the password if its
	// beginning, the pin, is taken out of a line first, too.
	secrets := append(s.secrets(), "hvs.login", accountToken, s.password()[4:])
	for where, text := range map[string]string{
		"answers": s.said.String(), "log": log, "events": s.api.events(), "metrics": metrics, "disk": disk, "what the kernel shows": shown,
	} {
		for line := range strings.Lines(text) {
			if slices.ContainsFunc(secrets, func(secret string) bool { return strings.Contains(line, secret) }) {
				t.Errorf("a secret shows in the %s: %.1000s", where, line)
			}
		}
	}
}

// refused has publications refused, in every way that has a token or a secret at hand.
func (s *identityScene) refused() {
	s.t.Helper()
	attribute := func(key, value string) func(*csi.NodePublishVolumeRequest) {
		return func(r *csi.NodePublishVolumeRequest) { r.VolumeContext[key] = value }
	}
	mustFail := func(what string, change func(*csi.NodePublishVolumeRequest)) {
		s.t.Helper()
		if s.publish("vault", change) == nil {
			s.t.Errorf("%s: it was published", what)
		}
	}
	s.vault.Verify = func(_, jwt string) string { return "cannot verify " + jwt }
	for name, change := range map[string]func(*csi.NodePublishVolumeRequest){
		"login": asItIs,
		"login with the tokens in the context": func(r *csi.NodePublishVolumeRequest) {
			r.VolumeContext[podtoken.KeyTokens], r.Secrets = r.Secrets[podtoken.KeyTokens], nil
		},
		"half a token": func(r *csi.NodePublishVolumeRequest) {
			r.Secrets[podtoken.KeyTokens] = r.Secrets[podtoken.KeyTokens][:300]
		},
		"a token for a source": func(r *csi.NodePublishVolumeRequest) { r.VolumeContext["source"] = s.lastToken() },
		"a token for a path": func(r *csi.NodePublishVolumeRequest) {
			r.VolumeContext["credentials"] = `a: {path: "` + s.lastToken() + `"}`
		},
		"a token for the volume id": func(r *csi.NodePublishVolumeRequest) { r.VolumeId = s.lastToken() },
	} {
		mustFail(name, change)
	}
	s.vault.Verify = func(string, string) string { return "" }
	for _, template := range []string{
		`x: {template: "{{ index .app.password 9999 }}"}`, `x: {template: "{{ .app.password.more }}"}`, `x: {template: "{{ call .app.password }}"}`,
		`x: {template: "{{ if eq .app .app }}x{{ end }}"}`, `x: {template: "{{ index .app .app.password }}"}`,
		`x: {template: "{{ slice .app.password 9999 }}"}`, `x: {template: "{{ indent 5 .app.password | indent 99 }}"}`, `x: {template: "{{ len 3 }}{{ .app.password }}"}`,
	} {
		mustFail(template, attribute("files", template))
	}
}

// trouble is a fault, and what an event says of it.
type trouble struct {
	answer fault
	said   []string
}

// faults are what the services do instead of answering.
func (s *identityScene) faults() []trouble {
	broken := func(answer string) trouble {
		return trouble{answer: func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = io.WriteString(w, answer)
			return true
		}}
	}
	// quoting answers requests for this with all that there is to quote.
	quoting := func(status int, path string, said ...string) trouble {
		return trouble{said: said, answer: func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.Contains(r.URL.Path, path) {
				return false
			}
			body, _ := io.ReadAll(r.Body)
			all := append(s.secrets(), string(body), r.Header.Get("X-Vault-Token"), `{"password":"`+s.password()+`"}`)
			if strings.HasSuffix(path, "/exchange") {
				w.WriteHeader(status)
				must(json.NewEncoder(w).Encode(map[string]string{"error": "invalid_grant", "error_description": "not with " + strings.Join(all, " nor with ")}))
				return true
			}
			fakevault.Refuse(w, status, "permission denied for "+r.Header.Get("X-Vault-Token")+" "+s.lastToken(), strings.Join(all, ", "))
			return true
		}}
	}
	return []trouble{
		broken(`{"data":{"data":{"password":"` + s.password()), broken(s.password()), broken(`{"errors":["` + s.password() + `"]}`),
		quoting(http.StatusForbidden, "/login", "permission denied for ***"), quoting(http.StatusForbidden, "/data/"), quoting(http.StatusInternalServerError, "/issue/"),
		quoting(http.StatusForbidden, "/creds/"), quoting(http.StatusBadRequest, "/exchange", "invalid_grant"),
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
