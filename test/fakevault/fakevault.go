// Package fakevault is a small server that answers like Vault, for tests that need one
// which misbehaves on command: an auth method, a key-value engine of either version, a
// certificate authority, and database logins with leases.
//
// It keeps what it is told and checks what it is asked: who logs in, with which token,
// what a role may read. It is no Vault: where the two differ, a test with this one says
// nothing.
package fakevault

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"time"
)

// Server is a fake Vault. Its exported fields are set before the first request; what
// changes later has a method.
type Server struct {
	*httptest.Server
	// Verify says whether a token is good for a role; "" means that it is. It is called
	// for several logins at a time.
	Verify func(role, jwt string) (refusal string)
	// LoginTTL and LeaseTTL are how long logins and leases live; LeaseMax bounds a
	// lease with all its renewals, 0 for no bound.
	LoginTTL, LeaseTTL, LeaseMax time.Duration

	mu       sync.Mutex
	fault    func(w http.ResponseWriter, r *http.Request) bool
	logins   map[string]*login
	leases   map[string]*lease
	denied   map[string]bool
	kv       map[string]map[string]any
	requests []string
	serial   int64
	ca       *x509.Certificate
	caKey    *ecdsa.PrivateKey
	caPEM    string
}

type login struct {
	role    string
	expires time.Time
}

type lease struct {
	token          string
	born, expires  time.Time
	user, password string
}

// New is a Server on this machine with TLS; plain says without.
func New(plain bool) *Server {
	s := newServer()
	if plain {
		s.Server = httptest.NewServer(s)
	} else {
		s.Server = httptest.NewTLSServer(s)
	}
	return s
}

func newServer() *Server {
	s := &Server{
		Verify:   func(string, string) string { return "" },
		LoginTTL: time.Hour, LeaseTTL: time.Hour,
		logins: map[string]*login{}, leases: map[string]*lease{}, denied: map[string]bool{}, kv: map[string]map[string]any{},
	}
	s.makeCA()
	return s
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// ServerCA is the certificate in PEM that vouches for the server.
func (s *Server) ServerCA() string {
	if s.Certificate() == nil {
		return ""
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
}

// Put sets a secret: of version 1 at PATH, of version 2 at MOUNT/data/PATH.
func (s *Server) Put(path string, data map[string]any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kv[path] = data
}

// Remove removes a secret.
func (s *Server) Remove(path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.kv, path)
}

// Deny refuses a path, or "login", or allows it again.
func (s *Server) Deny(path string, yes bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.denied[path] = yes
}

// Misbehave gives every request to fault first; if that says true, it has been
// answered. nil ends it.
func (s *Server) Misbehave(fault func(w http.ResponseWriter, r *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = fault
}

// Requests are the requests so far, as METHOD PATH.
func (s *Server) Requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.requests...)
}

// Count is how many requests so far had this in them.
func (s *Server) Count(part string) int {
	n := 0
	for _, r := range s.Requests() {
		if strings.Contains(r, part) {
			n++
		}
	}
	return n
}

// Leases are the users of the database whose leases live.
func (s *Server) Leases() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var users []string
	for _, l := range s.leases {
		if l.expires.After(time.Now()) {
			users = append(users, l.user)
		}
	}
	return users
}

// Logins is how many logins live.
func (s *Server) Logins() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, l := range s.logins {
		if l.expires.After(time.Now()) {
			n++
		}
	}
	return n
}

// ForgetLogins ends all logins, as a restart without storage does.
func (s *Server) ForgetLogins() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.logins, s.leases = map[string]*login{}, map[string]*lease{}
}

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	fault := s.fault
	s.requests = append(s.requests, r.Method+" "+strings.TrimPrefix(r.URL.Path, "/v1/"))
	s.mu.Unlock()
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	must(err)
	r.Body = io.NopCloser(bytes.NewReader(body))
	if fault != nil && fault(w, r) {
		return
	}
	in := map[string]any{}
	if len(body) > 0 && json.Unmarshal(body, &in) != nil {
		Refuse(w, http.StatusBadRequest, "the body is no JSON")
		return
	}
	path := strings.TrimPrefix(r.URL.Path, "/v1/")
	if strings.HasPrefix(path, "auth/") && strings.HasSuffix(path, "/login") {
		s.logIn(w, in)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	token := r.Header.Get("X-Vault-Token")
	l, ok := s.logins[token]
	if !ok || !l.expires.After(time.Now()) {
		Refuse(w, http.StatusForbidden, "permission denied", "invalid token")
		return
	}
	s.serve(w, r.Method, path, token, l, in)
}

func (s *Server) logIn(w http.ResponseWriter, in map[string]any) {
	role, _ := in["role"].(string)
	jwt, _ := in["jwt"].(string)
	s.mu.Lock()
	denied := s.denied["login"]
	s.mu.Unlock()
	if denied {
		Refuse(w, http.StatusForbidden, "permission denied")
		return
	}
	// Not with mu held: it may take as long as a question to an API server, and ask this
	// server something.
	if why := s.Verify(role, jwt); why != "" {
		Refuse(w, http.StatusForbidden, why)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	token := s.next("hvs.login-")
	s.logins[token] = &login{role: role, expires: time.Now().Add(s.LoginTTL)}
	Answer(w, map[string]any{"auth": s.auth(token)})
}

func (s *Server) auth(token string) map[string]any {
	return map[string]any{"client_token": token, "lease_duration": seconds(s.LoginTTL), "renewable": true, "policies": []string{"default"}}
}

func (s *Server) next(prefix string) string {
	s.serial++
	return fmt.Sprintf("%s%08d", prefix, s.serial)
}

// seconds rounds up, so that short lives are not none.
func seconds(d time.Duration) int { return int((d + time.Second - 1) / time.Second) }

func (s *Server) serve(w http.ResponseWriter, method, path, token string, l *login, in map[string]any) {
	if s.denied[path] {
		Refuse(w, http.StatusForbidden, "1 error occurred:\n\t* permission denied\n\n")
		return
	}
	now := time.Now()
	switch {
	case path == "auth/token/renew-self":
		l.expires = now.Add(s.LoginTTL)
		Answer(w, map[string]any{"auth": s.auth(token)})
	case path == "auth/token/revoke-self":
		delete(s.logins, token)
		for id, lease := range s.leases {
			if lease.token == token {
				delete(s.leases, id)
			}
		}
		w.WriteHeader(http.StatusNoContent)
	case path == "sys/capabilities-self":
		data := map[string]any{}
		for _, p := range in["paths"].([]any) {
			data[p.(string)] = []string{"read"}
			if s.denied[p.(string)] {
				data[p.(string)] = []string{"deny"}
			}
		}
		Answer(w, map[string]any{"data": data})
	case path == "sys/leases/renew":
		s.renew(w, in)
	case strings.Contains(path, "/creds/"):
		id, user, password := s.next(path+"/"), s.next("v-kubernetes-"), s.next("password-")
		s.leases[id] = &lease{token: token, born: now, expires: now.Add(s.LeaseTTL), user: user, password: password}
		Answer(w, map[string]any{"lease_id": id, "lease_duration": seconds(s.LeaseTTL), "renewable": true, "data": map[string]any{"username": user, "password": password}})
	case strings.Contains(path, "/issue/"):
		s.issue(w, in)
	default:
		data, ok := s.kv[path]
		switch {
		case !ok:
			Refuse(w, http.StatusNotFound)
		case strings.Contains(path, "/data/"):
			Answer(w, map[string]any{"data": map[string]any{"data": data, "metadata": map[string]any{"version": 1}}})
		default:
			Answer(w, map[string]any{"lease_duration": 2764800, "data": data, "echo": method})
		}
	}
}

func (s *Server) renew(w http.ResponseWriter, in map[string]any) {
	id, _ := in["lease_id"].(string)
	l, ok := s.leases[id]
	if !ok || !l.expires.After(time.Now()) {
		Refuse(w, http.StatusBadRequest, "lease not found")
		return
	}
	l.expires = time.Now().Add(s.LeaseTTL)
	if most := l.born.Add(s.LeaseMax); s.LeaseMax > 0 && l.expires.After(most) {
		l.expires = most
	}
	Answer(w, map[string]any{"lease_id": id, "lease_duration": seconds(time.Until(l.expires)), "renewable": true})
}

func (s *Server) makeCA() {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "fake CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(err)
	s.ca, err = x509.ParseCertificate(der)
	must(err)
	s.caKey, s.caPEM = key, strings.TrimSpace(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
}

func (s *Server) issue(w http.ResponseWriter, in map[string]any) {
	name, _ := in["common_name"].(string)
	if name == "" {
		Refuse(w, http.StatusBadRequest, "common_name is needed")
		return
	}
	ttl := time.Hour
	if text, ok := in["ttl"].(string); ok {
		d, err := time.ParseDuration(text)
		if err != nil {
			Refuse(w, http.StatusBadRequest, "ttl is no duration")
			return
		}
		ttl = d
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	s.serial++
	template := &x509.Certificate{
		SerialNumber: big.NewInt(s.serial), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(ttl),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, s.ca, key.Public(), s.caKey)
	must(err)
	text, err := x509.MarshalECPrivateKey(key)
	must(err)
	Answer(w, map[string]any{"data": map[string]any{
		"certificate": strings.TrimSpace(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))),
		"private_key": strings.TrimSpace(string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: text}))),
		"issuing_ca":  s.caPEM, "ca_chain": []string{s.caPEM}, "serial_number": fmt.Sprint(s.serial), "expiration": template.NotAfter.Unix(),
	}})
}

// Answer writes JSON.
func Answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	must(json.NewEncoder(w).Encode(v))
}

// Warn writes that there is nothing, with warnings, as Vault does for a path that an
// engine does not have.
func Warn(w http.ResponseWriter, warnings ...string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusNotFound)
	must(json.NewEncoder(w).Encode(map[string]any{
		"request_id": "0b6f1c7e-5f0b-4a54-9d43-0d6a8a4a1f10", "lease_id": "", "renewable": false, "lease_duration": 0,
		"data": nil, "wrap_info": nil, "warnings": warnings, "auth": nil,
	}))
}

// Refuse writes an error as Vault does.
func Refuse(w http.ResponseWriter, status int, errs ...string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if errs == nil {
		errs = []string{}
	}
	must(json.NewEncoder(w).Encode(map[string]any{"errors": errs}))
}
