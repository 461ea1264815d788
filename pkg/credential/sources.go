package credential

import (
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// Sources are the sources that an administrator has named.
type Sources struct {
	byName map[string]Source
}

// File is the file that names them, in YAML. A field that is not known is an error.
type File struct {
	// Sources by name. A name is what pods write: 1 to 63 of [a-z0-9-].
	Sources map[string]Entry `json:"sources"`
}

// Entry is one source: exactly one of its kinds.
type Entry struct {
	Vault *VaultConfig `json:"vault,omitempty"`
	OIDC  *OIDCConfig  `json:"oidc,omitempty"`
	GCP   *GCPConfig   `json:"gcp,omitempty"`
	AWS   *AWSConfig   `json:"aws,omitempty"`
	Token *TokenConfig `json:"token,omitempty"`
}

// Trust is whom a source believes that it is the service.
type Trust struct {
	// CA has certificates in PEM, and CAFile is a file of them, beside which no
	// authority is believed. Without either those of the system are.
	CA     string `json:"ca,omitempty"`
	CAFile string `json:"caFile,omitempty"`
	// Plaintext allows an address with http://, over which everybody on the way sees
	// the tokens.
	Plaintext bool `json:"plaintext,omitempty"`
}

// Load reads the file that names the sources. It is volume.ErrInvalid if it says what
// cannot be; then the error names the source.
func Load(path string) (*Sources, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the sources of credentials: %w", err)
	}
	s, err := Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

var sourceName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// Parse is Load for what was read already.
func Parse(text []byte) (*Sources, error) {
	var file File
	if err := yaml.UnmarshalStrict(text, &file); err != nil {
		return nil, fmt.Errorf("%w: %w", volume.ErrInvalid, err)
	}
	if len(file.Sources) == 0 {
		return nil, fmt.Errorf("%w: no sources are in it", volume.ErrInvalid)
	}
	s := &Sources{byName: map[string]Source{}}
	for _, name := range slices.Sorted(maps.Keys(file.Sources)) {
		if !sourceName.MatchString(name) {
			return nil, fmt.Errorf("%w: source %q: want a name of 1 to 63 of [a-z0-9-]", volume.ErrInvalid, name)
		}
		source, err := file.Sources[name].open(name)
		if err != nil {
			return nil, fmt.Errorf("%w: source %s: %w", volume.ErrInvalid, name, err)
		}
		s.byName[name] = source
	}
	shareCircuits(s.byName)
	return s, nil
}

func (e Entry) open(name string) (Source, error) {
	var makers []func() (Source, error)
	if e.Vault != nil {
		makers = append(makers, func() (Source, error) { return newVault(name, *e.Vault) })
	}
	if e.OIDC != nil {
		makers = append(makers, func() (Source, error) { return newOIDC(name, *e.OIDC) })
	}
	if e.GCP != nil {
		makers = append(makers, func() (Source, error) { return newGCP(name, *e.GCP) })
	}
	if e.AWS != nil {
		makers = append(makers, func() (Source, error) { return newAWS(name, *e.AWS) })
	}
	if e.Token != nil {
		makers = append(makers, func() (Source, error) { return newToken(name, *e.Token) })
	}
	if len(makers) != 1 {
		return nil, fmt.Errorf("it is of %d kinds: want exactly one of vault, oidc, gcp, aws, token", len(makers))
	}
	return makers[0]()
}

// Names are the names of the sources, in order.
func (s *Sources) Names() []string { return slices.Sorted(maps.Keys(s.byName)) }

// Audiences are all audiences for which kubelet must be asked for tokens, in order.
func (s *Sources) Audiences() []string {
	set := map[string]bool{}
	for _, source := range s.byName {
		set[source.Audience()] = true
	}
	return slices.Sorted(maps.Keys(set))
}

// Find is the source of a name. It is volume.ErrInvalid if the administrator has named
// none so.
func (s *Sources) Find(name string) (Source, error) {
	source, ok := s.byName[name]
	if !ok {
		return nil, fmt.Errorf("%w: source %q: there are %s", volume.ErrInvalid, name, strings.Join(s.Names(), ", "))
	}
	return source, nil
}

// resolve reads an address and the certificates that vouch for it.
func (t Trust) resolve(address string) (*url.URL, *x509.CertPool, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, nil, fmt.Errorf("address %q: want a URL such as https://HOST:PORT", address)
	}
	switch {
	case u.Scheme == "https":
	case u.Scheme == "http" && (t.Plaintext || isLoopback(u.Hostname())):
	case u.Scheme == "http":
		return nil, nil, fmt.Errorf("address %s: everybody on the way would see the pods' tokens: use https, or say plaintext: true", address)
	default:
		return nil, nil, fmt.Errorf("address %s: want https", address)
	}
	text := []byte(t.CA)
	if t.CAFile != "" {
		if t.CA != "" {
			return nil, nil, errors.New("both ca and caFile are set: want one of them")
		}
		if text, err = os.ReadFile(t.CAFile); err != nil {
			return nil, nil, fmt.Errorf("caFile: %w", err)
		}
	}
	if len(text) == 0 {
		return u, nil, nil
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, nil, errors.New("ca: there is no certificate in PEM in it")
	}
	return u, pool, nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
