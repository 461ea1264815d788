package sealed

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"hash/crc32"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/hashicorp/vault/api"

	"github.com/holdfast-csi/holdfast/pkg/credential"
	"github.com/holdfast-csi/holdfast/pkg/podtoken"
	"github.com/holdfast-csi/holdfast/test/issuer"
	"github.com/holdfast-csi/holdfast/test/roottest"
)

const (
	audience = "vault"
	// wrappingKey is one that is derived: it wants a context.
	wrappingKey = "shop"
)

// vaultServer is a real Vault in dev mode, and who signs the pods' tokens.
type vaultServer struct {
	t        testing.TB
	ctx      context.Context
	cmd      *exec.Cmd
	admin    *api.Client
	address  string
	issuer   *issuer.Issuer
	accessor string // of the auth method
}

// vaultProgram is where test/cluster builds Vault. It skips the test if it is not
// there.
func vaultProgram(t testing.TB) string {
	t.Helper()
	roottest.Require(t)
	program, err := filepath.Abs("../../bin/cluster/vault")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(program); err != nil {
		t.Skip("there is no bin/cluster/vault: `go run ./hack/cluster vault` builds it, as make e2e does")
	}
	return program
}

// startVault starts a Vault with transit and the auth method jwt, which ends with the
// test.
func startVault(t testing.TB) *vaultServer {
	t.Helper()
	program := vaultProgram(t)
	v := &vaultServer{t: t, ctx: t.Context(), issuer: issuer.New()}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	v.must(err)
	port := l.Addr().String()
	v.must(l.Close())
	v.address = "http://" + port
	v.cmd = exec.Command(program, "server", "-dev", "-dev-root-token-id=root", "-dev-listen-address="+port, "-dev-no-store-token", "-log-level=error")
	v.cmd.Env = []string{"HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH")}
	v.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	log, err := os.Create(filepath.Join(t.TempDir(), "vault.log"))
	v.must(err)
	defer log.Close()
	v.cmd.Stdout, v.cmd.Stderr = log, log
	v.must(v.cmd.Start())
	t.Cleanup(v.kill)
	config := api.DefaultConfig()
	config.Address = v.address
	v.admin, err = api.NewClient(config)
	v.must(err)
	v.admin.SetToken("root")
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if h, err := v.admin.Sys().HealthWithContext(v.ctx); err == nil && h.Initialized && !h.Sealed {
			break
		}
		if time.Now().After(end) {
			said, _ := os.ReadFile(log.Name())
			t.Fatalf("Vault is not ready after a minute:\n%s", said)
		}
	}
	v.setUp()
	return v
}

func (v *vaultServer) must(err error) {
	v.t.Helper()
	if err != nil {
		v.t.Fatal(err)
	}
}

// kill ends Vault. A second one is success.
func (v *vaultServer) kill() {
	_ = v.cmd.Process.Kill()
	_ = v.cmd.Wait() // it was killed
	// The connections of its clients end with it, a moment later.
	time.Sleep(200 * time.Millisecond)
}

func (v *vaultServer) write(path string, data map[string]any) {
	v.t.Helper()
	_, err := v.admin.Logical().WriteWithContext(v.ctx, path, data)
	v.must(err)
}

func (v *vaultServer) setUp() {
	v.t.Helper()
	v.write("sys/auth/jwt", map[string]any{"type": "jwt"})
	auths, err := v.admin.Sys().ListAuthWithContext(v.ctx)
	v.must(err)
	v.accessor = auths["jwt/"].Accessor
	v.write("auth/jwt/config", map[string]any{"jwt_validation_pubkeys": []string{v.publicKey()}, "bound_issuer": issuer.URL})
	v.write("sys/mounts/transit", map[string]any{"type": "transit"})
	v.makeWrappingKey()
}

// makeWrappingKey makes one that can be deleted, and read as a backup.
func (v *vaultServer) makeWrappingKey() {
	v.t.Helper()
	v.write("transit/keys/"+wrappingKey, map[string]any{"derived": true, "exportable": true, "allow_plaintext_backup": true})
	v.write("transit/keys/"+wrappingKey+"/config", map[string]any{"deletion_allowed": true})
}

func (v *vaultServer) deleteWrappingKey() {
	v.t.Helper()
	_, err := v.admin.Logical().DeleteWithContext(v.ctx, "transit/keys/"+wrappingKey)
	v.must(err)
}

// publicKey is that of the issuer in PEM, as an administrator would copy it from the
// API server.
func (v *vaultServer) publicKey() string {
	v.t.Helper()
	var keys jose.JSONWebKeySet
	v.must(json.Unmarshal(v.issuer.Keys(), &keys))
	der, err := x509.MarshalPKIXPublicKey(keys.Keys[0].Key)
	v.must(err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// role makes a role with a policy of its own, for one service account of the namespace
// shop; "" for all.
func (v *vaultServer) role(name, account, policy string) {
	v.t.Helper()
	v.write("sys/policies/acl/"+name, map[string]any{"policy": policy})
	role := map[string]any{
		"role_type": "jwt", "user_claim": "sub", "bound_audiences": []string{audience}, "token_policies": []string{name}, "token_ttl": "10m",
		"claim_mappings": map[string]string{"/kubernetes.io/namespace": "namespace", "/kubernetes.io/serviceaccount/name": "account"},
	}
	if account != "" {
		role["bound_subject"] = "system:serviceaccount:shop:" + account
	}
	v.write("auth/jwt/role/"+name, role)
}

// useOf is a policy that lets a wrapping key be used. One with a context lets it be
// used with that alone.
func useOf(key, context string) string {
	var b strings.Builder
	for _, verb := range []string{"datakey/plaintext", "decrypt", "rewrap"} {
		fmt.Fprintf(&b, "path \"transit/%s/%s\" {\n  capabilities = [\"update\"]\n", verb, key)
		if context != "" {
			fmt.Fprintf(&b, "  required_parameters = [\"context\"]\n  allowed_parameters = { \"context\" = [\"%s\"], \"*\" = [] }\n", base64.StdEncoding.EncodeToString([]byte(context)))
		}
		b.WriteString("}\n")
	}
	return b.String()
}

// podOf is a pod of the namespace shop.
func podOf(account, name string) podtoken.Pod {
	uid := fmt.Sprintf("0b6f1c7e-5f0b-4a54-9d43-%012x", crc32.ChecksumIEEE([]byte(name)))
	return podtoken.Pod{Namespace: "shop", Name: name, UID: uid, ServiceAccount: account}
}

// keeper is Vault's transit for a pod in a role, as the driver would ask it: with the
// token that kubelet passes, and nothing else.
func (v *vaultServer) keeper(pod podtoken.Pod, role string) Transit {
	v.t.Helper()
	sources, err := credential.Parse([]byte(fmt.Sprintf(`{"sources": {"main": {"vault": {"address": %q, "audience": %q, "auth": {"method": "jwt", "roles": ["*"]}}}}}`, v.address, audience)))
	v.must(err)
	source, err := sources.Find("main")
	v.must(err)
	set, err := podtoken.Read(map[string]string{
		podtoken.KeyTokens: issuer.Tokens(map[string]string{audience: v.issuer.Token(pod, audience, time.Hour)}),
	}, nil)
	v.must(err)
	token, err := set.For(source.Audience())
	v.must(err)
	return Transit{Session: source.Open(role), Token: token, Pod: pod, Mount: "transit", Key: wrappingKey, Context: ContextOf(pod)}
}
