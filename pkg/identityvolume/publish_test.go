package identityvolume

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/pkg/podtoken"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/test/fakevault"
	"github.com/holdfast-csi/holdfast/test/issuer"
)

func TestAPodGetsItsFiles(t *testing.T) {
	s := newScene(t)
	pod := podNamed("web")
	s.mustPublish(pod, map[string]string{
		AttributeSource: "main", AttributeRole: "web",
		AttributeCredentials: `
app: {engine: kv, mount: secret, path: shop}
web: {engine: pki, mount: pki, role: web, with: {common_name: web.shop.svc, ttl: 1h}}
`,
		AttributeFiles: `
password: app.password
tls.crt: {content: web.certificate_chain, mode: "0444"}
tls.key: web.private_key
app.ini: {template: "user = {{ .app.user }}\npassword = {{ .app.password | json }}\n{{ if .app.user }}yes{{ end }}"}
`,
	})
	s.wantFile(pod, "password", "first")
	s.wantFile(pod, "app.ini", "user = app\npassword = \"first\"\nyes")
	if !strings.HasPrefix(s.file(pod, "tls.crt"), "-----BEGIN CERTIFICATE") || !strings.Contains(s.file(pod, "tls.key"), "PRIVATE KEY") {
		t.Errorf("the certificate is %q", s.file(pod, "tls.crt"))
	}
	for name, mode := range map[string]uint32{"password": 0o440, "tls.crt": 0o444, ".": 0o751} {
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(s.target(pod), name), &st); err != nil || st.Mode&0o7777 != mode || st.Uid != 0 || st.Gid != 2000 {
			t.Errorf("%s has mode %o, owner %d:%d, %v", name, st.Mode&0o7777, st.Uid, st.Gid, err)
		}
	}
	info := s.at(pod)
	for _, option := range []string{"ro", "nosuid", "nodev", "noexec"} {
		if !slices.Contains(info.Options, option) {
			t.Errorf("the mount is not %s: %v", option, info.Options)
		}
	}
	if info.FSType != "tmpfs" || !slices.Contains(info.SuperOptions, "size=4096k") {
		t.Errorf("the filesystem is %s with %v", info.FSType, info.SuperOptions)
	}
	if locked := slices.Contains(info.SuperOptions, "noswap"); locked == s.toldOfSwap.Load() {
		t.Errorf("the filesystem may be swapped out: %v, and the administrator was told so: %v", !locked, s.toldOfSwap.Load())
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	var major, minor int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &major, &minor); err != nil {
		t.Fatal(err)
	}
	if (major > 6 || major == 6 && minor >= 3) && s.toldOfSwap.Load() {
		t.Errorf("Linux %d.%d has noswap, and it was not used", major, minor)
	}
	if err := os.WriteFile(filepath.Join(s.target(pod), "password"), []byte("x"), 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("the pod can write: %v", err)
	}
	if err := s.unpublish(pod); err != nil {
		t.Fatal(err)
	}
	s.wantNothing(pod)
	if err := s.unpublish(pod); err != nil {
		t.Errorf("a second unpublish: %v", err)
	}
	s.stop()
	if s.vault.Logins() != 0 {
		t.Errorf("%d logins are left", s.vault.Logins())
	}
}

// TestAKernelWithoutNoswapIsServed names an option that no kernel has.
func TestAKernelWithoutNoswapIsServed(t *testing.T) {
	s := newScene(t)
	s.noswap = "noswap-of-another-day"
	for _, name := range []string{"web", "api"} {
		pod := podNamed(name)
		s.mustPublish(pod, passwordOnly())
		s.wantFile(pod, "password", "first")
		if info := s.at(pod); slices.Contains(info.SuperOptions, "noswap") || !slices.Contains(info.SuperOptions, "size=4096k") {
			t.Errorf("the filesystem has %v", info.SuperOptions)
		}
	}
	if !s.toldOfSwap.Load() {
		t.Error("nobody was told")
	}
}

func TestWithoutAGroupFilesAreOfRootAlone(t *testing.T) {
	s := newScene(t)
	pod := podNamed("web")
	req := s.request(pod, passwordOnly())
	req.VolumeCapability.GetMount().VolumeMountGroup = ""
	if _, err := s.NodePublishVolume(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(s.target(pod)+"/password", &st); err != nil || st.Mode&0o7777 != 0o400 || st.Gid != 0 {
		t.Errorf("mode %o, group %d, %v", st.Mode&0o7777, st.Gid, err)
	}
}

func TestTheFirstPublishIsStrict(t *testing.T) {
	tokens := func(of podtoken.Pod, change func(issuer.Claims)) func(*scene, *csi.NodePublishVolumeRequest) {
		return func(s *scene, r *csi.NodePublishVolumeRequest) {
			claims := issuer.ClaimsOf(of, "vault", time.Now(), time.Hour)
			change(claims)
			r.Secrets = map[string]string{podtoken.KeyTokens: issuer.Tokens(map[string]string{"vault": s.issuer.Sign(claims)})}
		}
	}
	attribute := func(key, value string) func(*scene, *csi.NodePublishVolumeRequest) {
		return func(_ *scene, r *csi.NodePublishVolumeRequest) { r.VolumeContext[key] = value }
	}
	vault := func(status int, text string) func(*scene, *csi.NodePublishVolumeRequest) {
		return func(s *scene, _ *csi.NodePublishVolumeRequest) {
			s.vault.Misbehave(func(w http.ResponseWriter, _ *http.Request) bool {
				fakevault.Refuse(w, status, text)
				return true
			})
		}
	}
	pod := podNamed("web")
	for _, c := range []struct {
		name   string
		change func(*scene, *csi.NodePublishVolumeRequest)
		want   error
		says   string
	}{
		{"no tokens", func(_ *scene, r *csi.NodePublishVolumeRequest) { r.Secrets = nil }, volume.ErrUnauthenticated, "tokenRequests"},
		{"another pod's token", tokens(podNamed("other"), func(issuer.Claims) {}), volume.ErrUnauthenticated, "is not this pod's"},
		{"an expired token", tokens(pod, func(c issuer.Claims) { c["exp"] = time.Now().Add(-time.Minute).Unix() }), volume.ErrUnauthenticated, "expired"},
		{"a token of the future", tokens(pod, func(c issuer.Claims) { c["nbf"] = time.Now().Add(time.Hour).Unix() }), volume.ErrUnavailable, "clocks"},
		{"a token for another audience", tokens(pod, func(c issuer.Claims) { c["aud"] = []string{"api"} }), volume.ErrUnauthenticated, "is for"},
		{"refused", vault(403, "permission denied"), volume.ErrDenied, "permission denied"},
		{"nothing there", attribute(AttributeCredentials, "app: {engine: kv, mount: secret, path: none}"), volume.ErrPrecondition, "nothing at that path"},
		{"sealed", vault(503, "Vault is sealed"), volume.ErrUnavailable, "sealed"},
		{"no such field", attribute(AttributeFiles, "x: app.nothing"), volume.ErrPrecondition, `no field "nothing"`},
		{"a template that fails", attribute(AttributeFiles, `x: {template: "{{ .app.nothing }}"}`), volume.ErrPrecondition, "nothing"},
		{"no source", attribute(AttributeSource, ""), volume.ErrInvalid, "source is missing"},
		{"another source", attribute(AttributeSource, "other"), volume.ErrInvalid, "there are main, self"},
		{"an unknown attribute", attribute("address", "https://evil"), volume.ErrInvalid, "known are"},
		{"an address", attribute(AttributeCredentials, "app: {engine: kv, mount: secret, path: shop, address: https://evil}"), volume.ErrInvalid, "address"},
		{"no YAML", attribute(AttributeCredentials, "{"), volume.ErrInvalid, "credentials"},
		{"no credentials", attribute(AttributeCredentials, ""), volume.ErrInvalid, "want 1 to 16"},
		{"a bad name", attribute(AttributeCredentials, "A-b: {path: a/b}"), volume.ErrInvalid, "want a letter"},
		{"no files", attribute(AttributeFiles, ""), volume.ErrInvalid, "want 1 to 64"},
		{"a path for a file", attribute(AttributeFiles, "a/b: app.password"), volume.ErrInvalid, "file name"},
		{"a hidden file", attribute(AttributeFiles, "..data: app.password"), volume.ErrInvalid, "file name"},
		{"an unknown credential", attribute(AttributeFiles, "x: other.password"), volume.ErrInvalid, "CREDENTIAL.FIELD"},
		{"content and template", attribute(AttributeFiles, `x: {content: app.password, template: y}`), volume.ErrInvalid, "exactly one"},
		{"a loop", attribute(AttributeFiles, `x: {template: "{{ range 1000000000 }}{{ end }}"}`), volume.ErrInvalid, "not allowed"},
		{"a loop inside", attribute(AttributeFiles, `x: {template: "{{ if true }}{{ with 1 }}{{ range 9 }}x{{ end }}{{ end }}{{ end }}"}`), volume.ErrInvalid, "not allowed"},
		{"a template of its own", attribute(AttributeFiles, `x: {template: "{{ define \"a\" }}x{{ end }}{{ template \"a\" }}"}`), volume.ErrInvalid, "not allowed"},
		{"a variable", attribute(AttributeFiles, `x: {template: "{{ $a := .app.password }}{{ $a }}"}`), volume.ErrInvalid, "variable $a is not allowed"},
		{"aliases", attribute(AttributeFiles, "x: &a app.password\ny: *a"), volume.ErrInvalid, "aliases"},
		{"a long attribute", attribute(AttributeFiles, "x: app.password #"+strings.Repeat("x", maxAttributes)), volume.ErrInvalid, "bytes in all"},
		{"a bad mode", attribute(AttributeFiles, `x: {content: app.password, mode: "4755"}`), volume.ErrInvalid, "mode"},
		{"a mode without its owner", attribute(AttributeFiles, `x: {content: app.password, mode: "0044"}`), volume.ErrInvalid, "owner"},
		{"a policy", attribute(AttributeOnExpiry, "explode"), volume.ErrInvalid, "keep or fence"},
		{"no pod", attribute(podtoken.KeyPodUID, ""), volume.ErrInvalid, "podInfoOnMount"},
		{"no inline volume", attribute("csi.storage.k8s.io/ephemeral", "false"), volume.ErrInvalid, "inline"},
		{"a block device", func(_ *scene, r *csi.NodePublishVolumeRequest) {
			r.VolumeCapability.AccessType = &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}
		}, volume.ErrInvalid, "directory of files"},
		{"mount options", func(_ *scene, r *csi.NodePublishVolumeRequest) {
			r.VolumeCapability.GetMount().MountFlags = []string{"exec"}
		}, volume.ErrInvalid, "no mount options"},
		{"a group by name", func(_ *scene, r *csi.NodePublishVolumeRequest) {
			r.VolumeCapability.GetMount().VolumeMountGroup = "wheel"
		}, volume.ErrInvalid, "volume_mount_group"},
		{"a volume that is not read-only", func(_ *scene, r *csi.NodePublishVolumeRequest) { r.Readonly = false }, volume.ErrInvalid, "readOnly: true"},
		{"no id", func(_ *scene, r *csi.NodePublishVolumeRequest) { r.VolumeId = "" }, volume.ErrInvalid, "volume id"},
		{"no target", func(_ *scene, r *csi.NodePublishVolumeRequest) { r.TargetPath = "" }, volume.ErrInvalid, "target path"},
		{"a target outside", func(_ *scene, r *csi.NodePublishVolumeRequest) { r.TargetPath = "/etc/x" }, volume.ErrInvalid, "not below"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScene(t)
			req := s.request(pod, passwordOnly())
			c.change(s, req)
			_, err := s.NodePublishVolume(t.Context(), req)
			wantErr(t, err, c.want, c.says)
			if strings.Contains(fmt.Sprint(err), "first") || strings.Contains(fmt.Sprint(err), "eyJ") {
				t.Errorf("the error shows a secret: %v", err)
			}
			s.wantNothing(pod)
			if len(s.States()) > 0 {
				t.Error("the volume passes for published")
			}
			// The same call made again, with nothing wrong.
			s.vault.Misbehave(nil)
			s.eventually(pod, nil, "it is published after all", func() bool { return s.publish(pod, passwordOnly()) == nil })
			s.wantFile(pod, "password", "first")
		})
	}
}

func TestTokensInTheVolumeContextAreTakenToo(t *testing.T) {
	s := newScene(t)
	pod := podNamed("web")
	req := s.request(pod, passwordOnly())
	req.VolumeContext[podtoken.KeyTokens], req.Secrets = req.Secrets[podtoken.KeyTokens], nil
	if _, err := s.NodePublishVolume(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	s.wantFile(pod, "password", "first")
}

func TestThePodsTokenItselfIsAFile(t *testing.T) {
	s := newScene(t)
	pod := podNamed("web")
	attributes := map[string]string{AttributeSource: "self", AttributeCredentials: "me: {}", AttributeFiles: "token: me.token"}
	s.mustPublish(pod, attributes)
	first := s.file(pod, "token")
	if strings.Count(first, ".") != 2 {
		t.Errorf("the file holds %q", first)
	}
	s.eventually(pod, attributes, "the next token is in the file", func() bool { return s.file(pod, "token") != first })
}

func TestAForeignMountIsLeftAlone(t *testing.T) {
	s := newScene(t)
	pod := podNamed("web")
	req := s.request(pod, passwordOnly())
	if err := os.Mkdir(s.target(pod), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("somebody-else", s.target(pod), "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.target(pod)+"/theirs", []byte("theirs"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := s.NodePublishVolume(t.Context(), req)
	wantErr(t, err, volume.ErrExists, "somebody-else")
	wantErr(t, s.unpublish(pod), volume.ErrExists, "somebody-else")
	s.wantFile(pod, "theirs", "theirs")
}

func TestUnpublishDoesNotWaitForVault(t *testing.T) {
	s := newScene(t)
	pod := podNamed("web")
	s.mustPublish(pod, passwordOnly())
	open, err := os.Open(s.target(pod) + "/password")
	if err != nil {
		t.Fatal(err)
	}
	content := make([]byte, 16)
	release := make(chan struct{})
	s.vault.Misbehave(func(w http.ResponseWriter, r *http.Request) bool {
		select {
		case <-release:
		case <-r.Context().Done():
		}
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	})
	begin := time.Now()
	// The pod still has a file open: what it reads is gone, and the mount stays busy.
	wantErr(t, s.unpublish(pod), volume.ErrInUse, "")
	if n, _ := open.ReadAt(content, 0); n > 0 && strings.Trim(string(content[:n]), "\x00") != "" {
		t.Errorf("the open file holds %q", content[:n])
	}
	open.Close()
	if err := s.unpublish(pod); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
	s.wantNothing(pod)
	close(release)
	s.stop()
	if len(s.said(RevokeFailed)) != 1 {
		t.Errorf("notices: %q", s.notices)
	}
}

func TestCapabilities(t *testing.T) {
	s := newScene(t)
	caps, err := s.NodeGetCapabilities(t.Context(), &csi.NodeGetCapabilitiesRequest{})
	if err != nil || len(caps.GetCapabilities()) != 1 || caps.GetCapabilities()[0].GetRpc().GetType() != csi.NodeServiceCapability_RPC_VOLUME_MOUNT_GROUP {
		t.Errorf("capabilities %v, %v", caps, err)
	}
	info, err := s.NodeGetInfo(t.Context(), &csi.NodeGetInfoRequest{})
	if err != nil || info.GetNodeId() != "node-1" || info.GetAccessibleTopology() != nil {
		t.Errorf("info %v, %v", info, err)
	}
}

func TestAWritableViewLeavesTheMountReadOnly(t *testing.T) {
	s := newScene(t)
	pod := podNamed("web")
	s.mustPublish(pod, passwordOnly())
	tree, err := s.writer(s.target(pod))
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	root, err := tree.Root()
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := unix.Mkdirat(int(root.Fd()), "x", 0o700); err != nil {
		t.Errorf("the view cannot be written to: %v", err)
	}
	if err := os.Mkdir(s.target(pod)+"/y", 0o700); !errors.Is(err, unix.EROFS) {
		t.Errorf("the pod's mount: %v", err)
	}
	infos, err := mount.List()
	if err != nil {
		t.Fatal(err)
	}
	if n := len(mount.At(infos, s.target(pod))); n != 1 {
		t.Errorf("%d mounts at the target", n)
	}
}
