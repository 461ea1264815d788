package credential

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// transport leads to one host, by no proxy, follows no redirect, and gives answers of a limited
// size.
type transport struct {
	scheme, host string
	ca           *x509.CertPool
	next         atomic.Pointer[http.Transport]
	answer       atomic.Pointer[time.Time] // when the last one came this way
}

func newTransport(address *url.URL, ca *x509.CertPool) *transport {
	t := &transport{scheme: address.Scheme, host: address.Host, ca: ca}
	t.next.Store(t.connections())
	return t
}

// connections is a transport without a connection yet.
func (t *transport) connections() *http.Transport {
	return &http.Transport{
		DialContext:           (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
		TLSClientConfig:       &tls.Config{RootCAs: t.ca, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:   5 * time.Second,
		ResponseHeaderTimeout: requestTime,
		MaxIdleConnsPerHost:   2,
		IdleConnTimeout:       30 * time.Second,
		ForceAttemptHTTP2:     true,
	}
}

// forsake leaves all connections to those who use them now, unless an answer came over
// them since begin, when a request began that got none. The next request makes a new
// one. What came over the connections of another source says nothing of these.
//
// A request that times out does not end its HTTP/2 connection: if the machine at the
// other end is gone, nobody says so, and all requests would take that connection until
// the kernel gives it up, which takes about a quarter of an hour (tcp(7), tcp_retries2),
// though another machine has the address by then.
func (t *transport) forsake(begin time.Time) {
	if at := t.answer.Load(); at != nil && at.After(begin) {
		return
	}
	t.next.Swap(t.connections()).CloseIdleConnections()
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	// Nothing above this asks anybody else. It is here so that this stays so.
	if req.URL.Scheme != t.scheme || req.URL.Host != t.host {
		if req.Body != nil {
			_ = req.Body.Close()
		}
		return nil, fmt.Errorf("%w: nobody is asked at %s://%s: the administrator has named %s://%s", volume.ErrUnavailable, req.URL.Scheme, req.URL.Host, t.scheme, t.host)
	}
	resp, err := t.next.Load().RoundTrip(req)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	t.answer.Store(&now)
	if p, ok := req.Context().Value(patienceKey{}).(*time.Duration); ok {
		*p = patienceOf(resp, now)
	}
	if resp.StatusCode/100 == 3 {
		_ = resp.Body.Close()
		return nil, elsewhere{resp.StatusCode, hostIn(resp.Header.Get("Location"))}
	}
	resp.Body = &limited{body: resp.Body, left: maxAnswer}
	return resp, nil
}

// CloseIdleConnections makes http.Client.CloseIdleConnections work.
func (t *transport) CloseIdleConnections() { t.next.Load().CloseIdleConnections() }

// elsewhere is the error for an answer that sends the one who asks to somebody else.
// What was to be sent there is a token.
type elsewhere struct {
	status int
	host   string // "" if it cannot be shown
}

func (e elsewhere) Error() string {
	to := e.host
	if to == "" {
		to = "another address"
	}
	return fmt.Sprintf("it redirects to %s (%d %s), where nobody is asked: name the address that answers itself, or let the standby nodes of a Vault forward requests", to, e.status, http.StatusText(e.status))
}

// hostShape is that of a host with or without a port, which is no secret by its looks.
var hostShape = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,100}[a-z0-9])?(:[0-9]{1,5})?$`)

// hostIn is the host of a URL; "" if there is none that can be shown.
func hostIn(location string) string {
	u, err := url.Parse(location)
	if err != nil || !hostShape.MatchString(u.Host) {
		return ""
	}
	return u.Host
}

// patienceKey finds in the context of a request where to put for how long the answer
// asks not to be asked again.
type patienceKey struct{}

// withPatience is a context for a request, and for how long its answer asks not to be
// asked again; 0 if it does not.
func withPatience(ctx context.Context) (context.Context, *time.Duration) {
	p := new(time.Duration)
	return context.WithValue(ctx, patienceKey{}, p), p
}

// patienceOf is the Retry-After of an answer (RFC 9110, section 10.2.3) that has one
// because the service is overloaded or away; 0 for none.
func patienceOf(resp *http.Response, now time.Time) time.Duration {
	if resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode != http.StatusServiceUnavailable {
		return 0
	}
	text := resp.Header.Get("Retry-After")
	if seconds, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		// By the clock of who says so, if it shows that.
		if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
			now = date
		}
		return max(0, at.Sub(now))
	}
	return 0
}

// limited is a body that fails, rather than ends, at its limit.
type limited struct {
	body io.ReadCloser
	left int64
}

var errTooLarge = errors.New("its answer is larger than 1 MiB")

func (l *limited) Read(p []byte) (int, error) {
	if int64(len(p)) > l.left+1 {
		p = p[:l.left+1]
	}
	n, err := l.body.Read(p)
	l.left -= int64(n)
	if l.left < 0 {
		return n, errTooLarge
	}
	return n, err
}

func (l *limited) Close() error { return l.body.Close() }
