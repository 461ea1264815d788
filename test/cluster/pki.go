package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// authority signs the certificates of the cluster. Its key is never written, so
// what it signed is all there ever is.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

// lifetime is longer than a test and shorter than a cluster that somebody forgot.
const lifetime = 90 * 24 * time.Hour

func pki(name string) string { return filepath.Join(pkiDir, name) }

// writePKI makes certificates and keys for everybody, and the kubeconfigs, unless
// they are there, and gives the user that of the administrator.
func writePKI(adminConfig string) error {
	done, err := os.Stat(pki("done"))
	switch {
	case err != nil:
		if err := makePKI(); err != nil {
			return err
		}
	case time.Since(done.ModTime()) > lifetime-24*time.Hour:
		return errors.New("the certificates of this cluster have ended: make cluster-down, then make cluster")
	}
	data, err := os.ReadFile(pki("admin.kubeconfig"))
	if err != nil {
		return err
	}
	return os.WriteFile(adminConfig, data, 0o600)
}

func makePKI() error {
	if err := os.MkdirAll(pkiDir, 0o700); err != nil {
		return err
	}
	ca, err := newAuthority()
	if err != nil {
		return err
	}
	if err := writeServiceAccountKey(); err != nil {
		return err
	}
	server := pkix.Name{CommonName: "kube-apiserver"}
	names := []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"}
	if _, _, err := ca.issue("apiserver", server, names, []net.IP{net.ParseIP(serviceIP), net.ParseIP("127.0.0.1")}); err != nil {
		return err
	}
	for file, subject := range map[string]pkix.Name{
		"apiserver-kubelet":  {CommonName: "kube-apiserver-kubelet-client", Organization: []string{"system:masters"}},
		"controller-manager": {CommonName: "system:kube-controller-manager"},
		"scheduler":          {CommonName: "system:kube-scheduler"},
		"kubelet":            {CommonName: "system:node:" + NodeName, Organization: []string{"system:nodes"}},
		"admin":              {CommonName: "admin", Organization: []string{"system:masters"}},
	} {
		cert, key, err := ca.issue(file, subject, nil, nil)
		if err != nil {
			return err
		}
		if err := os.WriteFile(pki(file+".kubeconfig"), kubeconfig(ca.pem(), cert, key), 0o600); err != nil {
			return err
		}
	}
	return os.WriteFile(pki("done"), nil, 0o600)
}

func newAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "holdfast-cluster"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(lifetime),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	a := &authority{key: key, cert: cert}
	return a, os.WriteFile(pki("ca.crt"), a.pem(), 0o644)
}

func (a *authority) pem() []byte { return encode("CERTIFICATE", a.cert.Raw) }

// issue makes NAME.crt and NAME.key, good for client and server.
func (a *authority) issue(name string, subject pkix.Name, dns []string, ips []net.IP) (certPEM, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: subject, DNSNames: dns, IPAddresses: ips,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(lifetime),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return nil, nil, fmt.Errorf("certificate of %s: %w", name, err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	certPEM, keyPEM = encode("CERTIFICATE", der), encode("PRIVATE KEY", keyDER)
	return certPEM, keyPEM, errors.Join(os.WriteFile(pki(name+".crt"), certPEM, 0o644), os.WriteFile(pki(name+".key"), keyPEM, 0o600))
}

// writeServiceAccountKey makes the pair that signs and checks tokens.
func writeServiceAccountKey() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(pki("sa.key"), encode("PRIVATE KEY", private), 0o600),
		os.WriteFile(pki("sa.pub"), encode("PUBLIC KEY", public), 0o644))
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func kubeconfig(ca, cert, key []byte) []byte {
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters:
- name: holdfast
  cluster: {server: %q, certificate-authority-data: %s}
users:
- name: user
  user: {client-certificate-data: %s, client-key-data: %s}
contexts:
- name: holdfast
  context: {cluster: holdfast, user: user}
current-context: holdfast
`, serverURL, b64(ca), b64(cert), b64(key))
}
