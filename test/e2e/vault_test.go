package e2e

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/holdfast-csi/holdfast/test/cluster"
)

// reviewer is the service account with which a Vault asks the API server about tokens.
const reviewer = "vault-reviewer"

// vaultServer is a real Vault: one process in development mode, with all that it has in
// memory, and a certificate of an authority of its own.
type vaultServer struct {
	program string
	address string // its URL
	authority
	token   string
	home    string // a directory of its own
	process *os.Process
}

// startVault starts one, which ends with the test.
func (s *scene) startVault(program string) *vaultServer {
	s.t.Helper()
	v := &vaultServer{program: program, home: s.t.TempDir(), token: "e2e-" + rand.Text()}
	v.authority = s.newAuthority(v.home)
	listen, plain := freeAddress(s, cluster.NodeIP), freeAddress(s, "127.0.0.1")
	v.address = "https://" + listen
	config, err := json.Marshal(map[string]any{"listener": map[string]any{"tcp": map[string]any{
		"address": listen, "tls_cert_file": filepath.Join(v.home, "tls.crt"), "tls_key_file": filepath.Join(v.home, "tls.key"),
	}}})
	s.must(err)
	path := filepath.Join(v.home, "config.json")
	s.must(os.WriteFile(path, config, 0o600))
	cmd := exec.Command(program, "server", "-dev", "-dev-no-store-token", "-dev-root-token-id="+v.token, "-dev-listen-address="+plain, "-config="+path, "-log-level=warn")
	var log logged
	cmd.Stdout, cmd.Stderr, cmd.Dir = &log, &log, v.home
	cmd.Env = append(os.Environ(), "HOME="+v.home)
	// Else one would stay that nobody waits for, if the tests are killed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	s.must(cmd.Start())
	v.process = cmd.Process
	s.t.Cleanup(func() {
		// SIGKILL ends one that is stopped, too.
		err := cmd.Process.Kill()
		var ended *exec.ExitError
		if waited := cmd.Wait(); err != nil || waited != nil && !errors.As(waited, &ended) {
			s.t.Errorf("end Vault: %v", errors.Join(err, waited))
		}
		if s.t.Failed() {
			s.section("log of Vault at "+v.address, 2<<10, log.String(), nil)
		}
	})
	for end := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) {
		_, err := v.call(s.ctx, "", "status")
		if err == nil {
			return v
		}
		if time.Now().After(end) {
			s.t.Fatalf("Vault at %s does not come up: %v\n%s", v.address, err, log.String())
		}
	}
}

// logged is what a process has written so far.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// freeAddress is an address at which nobody listens.
func freeAddress(s *scene, host string) string {
	s.t.Helper()
	l, err := net.Listen("tcp", host+":0")
	s.must(err)
	defer l.Close()
	return l.Addr().String()
}

// environment is what Vault's command line finds the server and its rights in.
func (v *vaultServer) environment() []string {
	return []string{"VAULT_ADDR=" + v.address, "VAULT_CACERT=" + v.authority.path, "VAULT_TOKEN=" + v.token}
}

func (v *vaultServer) call(ctx context.Context, input string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, v.program, args...)
	cmd.Env = append(append(os.Environ(), v.environment()...), "HOME="+v.home)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("vault %s: %w: %s", strings.Join(args[:min(2, len(args))], " "), err, out)
	}
	return string(out), nil
}

// run runs Vault's command line as its administrator. The test ends if it fails.
func (v *vaultServer) run(s *scene, args ...string) string {
	s.t.Helper()
	out, err := v.call(s.ctx, "", args...)
	s.must(err)
	return out
}

// policy says what those may do who have a policy.
func (v *vaultServer) policy(s *scene, name, rules string) {
	s.t.Helper()
	_, err := v.call(s.ctx, rules, "policy", "write", name, "-")
	s.must(err)
}

// put writes the password of a scene.
func (v *vaultServer) put(s *scene, password string) {
	s.t.Helper()
	v.run(s, "kv", "put", "secret/"+s.ns, "password="+password)
}

// canRead are the rules by which a scene's password can be read.
func canRead(s *scene) string {
	return fmt.Sprintf("path \"secret/data/%s\" { capabilities = [\"read\"] }\n", s.ns)
}

// canIssue are those by which a certificate can be had.
const canIssue = "path \"pki/issue/pod\" { capabilities = [\"update\"] }\n"

// trustCluster makes the auth methods kubernetes, which asks the API server about each
// token, and jwt, which verifies tokens with the keys that it publishes.
func (v *vaultServer) trustCluster(s *scene) {
	s.t.Helper()
	ca := s.config.CAData
	if len(ca) == 0 {
		var err error
		ca, err = os.ReadFile(s.config.CAFile)
		s.must(err)
	}
	token, err := s.kube.CoreV1().ServiceAccounts(s.ns).CreateToken(s.ctx, reviewer, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	s.must(err)
	v.run(s, "auth", "enable", "kubernetes")
	v.run(s, "write", "auth/kubernetes/config", "kubernetes_host="+s.config.Host, "kubernetes_ca_cert="+string(ca), "token_reviewer_jwt="+token.Status.Token)
	v.run(s, "auth", "enable", "jwt")
	v.run(s, "write", "auth/jwt/config", "jwks_url="+s.config.Host+"/openid/v1/jwks", "jwks_ca_pem="+string(ca), "bound_issuer=https://kubernetes.default.svc")
}

// becomeAuthority makes an authority for the certificates of pods.
func (v *vaultServer) becomeAuthority(s *scene) {
	s.t.Helper()
	v.run(s, "secrets", "enable", "pki")
	v.run(s, "write", "-field=certificate", "pki/root/generate/internal", "common_name=e2e", "key_type=ec", "ttl=24h")
	v.run(s, "write", "pki/roles/pod", "allow_any_name=true", "enforce_hostnames=false", "key_type=ec", "key_bits=256", "max_ttl=1h")
}

// grant makes the role of a scene, and the service accounts "allowed", which may have
// it, and "refused", which may not.
func (v *vaultServer) grant(s *scene, rules string) {
	s.t.Helper()
	for _, name := range []string{"allowed", "refused"} {
		_, err := s.kube.CoreV1().ServiceAccounts(s.ns).Create(s.ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		if !apierrors.IsAlreadyExists(err) {
			s.must(err)
		}
	}
	v.policy(s, s.ns, rules)
	v.run(s, "write", "auth/kubernetes/role/"+s.ns, "audience=vault", "bound_service_account_names=allowed",
		"bound_service_account_namespaces="+s.ns, "policies="+s.ns, "ttl=20m")
	v.run(s, "write", "auth/jwt/role/"+s.ns, "role_type=jwt", "bound_audiences=vault", "user_claim=sub",
		"bound_subject=system:serviceaccount:"+s.ns+":allowed", "policies="+s.ns, "ttl=20m")
}

// letVaultAsk makes a reviewer with its right, and gives everybody that of seeing the
// keys with which tokens are signed, until the test ends.
func (s *scene) letVaultAsk() {
	s.t.Helper()
	bindings := s.kube.RbacV1().ClusterRoleBindings()
	_, err := s.kube.CoreV1().ServiceAccounts(s.ns).Create(s.ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: reviewer}}, metav1.CreateOptions{})
	s.must(err)
	s.afterwards(func(late *scene) {
		late.must(bindings.DeleteCollection(late.ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: sceneLabel + "=" + s.ns}))
	})
	for role, subject := range map[string]rbacv1.Subject{
		"system:auth-delegator":                   {Kind: rbacv1.ServiceAccountKind, Namespace: s.ns, Name: reviewer},
		"system:service-account-issuer-discovery": {Kind: rbacv1.GroupKind, APIGroup: rbacv1.GroupName, Name: "system:unauthenticated"},
	} {
		_, err := bindings.Create(s.ctx, &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{GenerateName: s.ns + "-", Labels: map[string]string{sceneLabel: s.ns}},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
			Subjects:   []rbacv1.Subject{subject},
		}, metav1.CreateOptions{})
		s.must(err)
	}
}

// authority is one that vouches for a server of the node.
type authority struct {
	path string // of its certificate
	pem  string
}

// newAuthority makes one, and in dir a certificate of its for the node's address.
func (s *scene) newAuthority(dir string) authority {
	s.t.Helper()
	issue := func(template, parent *x509.Certificate, signer *ecdsa.PrivateKey) (string, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		s.must(err)
		if signer == nil {
			signer = key
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
		s.must(err)
		return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), key
	}
	from, to := time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority of a Vault"}, NotBefore: from, NotAfter: to,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a := authority{path: filepath.Join(dir, "ca.crt")}
	var caKey *ecdsa.PrivateKey
	a.pem, caKey = issue(ca, ca, nil)
	cert, key := issue(&x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "vault"}, NotBefore: from, NotAfter: to,
		IPAddresses: []net.IP{net.ParseIP(cluster.NodeIP)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, ca, caKey)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	s.must(err)
	s.must(os.WriteFile(a.path, []byte(a.pem), 0o644))
	s.must(os.WriteFile(filepath.Join(dir, "tls.crt"), []byte(cert), 0o644))
	s.must(os.WriteFile(filepath.Join(dir, "tls.key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600))
	return a
}
