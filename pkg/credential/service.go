package credential

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

const (
	// requestTime bounds one request, from the connection to the last byte.
	requestTime = 10 * time.Second
	// maxAnswer is the size in bytes of the largest answer.
	maxAnswer = 1 << 20
)

// service is a server that is asked over HTTP.
type service struct {
	source string // its name, for errors
	host   string // its address, with its port
	client *http.Client
	// transport is the client's.
	transport *transport
	circuit   *circuit
	slots     slots
	timeout   time.Duration
}

// newService is a service at an address, which no request leaves, by no proxy. ca are
// the certificates of those who may vouch for it; nil means the system's.
func newService(source string, address *url.URL, ca *x509.CertPool) *service {
	t := newTransport(address, ca)
	return &service{
		source: source, host: address.Host, transport: t,
		client: &http.Client{
			Transport: t,
			// The answer to a request that has a token in it is the last one.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		circuit: &circuit{now: time.Now},
		timeout: requestTime,
	}
}

// ask makes one request for a tenant, if the circuit lets it. request returns an error
// with a sentinel if the service answered, even if it refused; any other error means
// that it did not, and so does ErrUnavailable without errAnswered: what one pod asks for
// must not open the circuit for others.
func (s *service) ask(ctx context.Context, tenant, doing string, request func(ctx context.Context) error) error {
	fail := func(err error) error { return fmt.Errorf("source %s: %s: %w", s.source, doing, err) }
	if err := s.slots.enter(ctx, tenant); err != nil {
		return fail(fmt.Errorf("%w: too many requests at once: %w", volume.ErrUnavailable, err))
	}
	defer s.slots.leave(tenant)
	p, err := s.circuit.enter(tenant)
	if err != nil {
		return fail(err)
	}
	how := outcome{abandoned: true} // what a panic leaves behind
	defer func() { s.circuit.leave(p, how) }()
	bounded, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	bounded, patience := withPatience(bounded)
	begin := time.Now()
	err = request(bounded)
	how = outcome{
		answered: err == nil || errors.Is(err, volume.ErrDenied) || errors.Is(err, volume.ErrInvalid) ||
			errors.Is(err, volume.ErrPrecondition) || errors.Is(err, volume.ErrUnauthenticated) ||
			errors.Is(err, errAnswered) || errors.Is(err, errTooLarge),
		abandoned: ctx.Err() != nil || s.circuit.answeredSince(p.begin),
		cause:     causeOf(err), patience: *patience,
	}
	if err == nil {
		return nil
	}
	if !how.answered && ctx.Err() == nil {
		s.transport.forsake(begin)
	}
	if !how.answered && !errors.Is(err, volume.ErrUnavailable) {
		err = fmt.Errorf("%w: %w", volume.ErrUnavailable, plain(err))
	}
	return fail(err)
}

// plain is the error of a request without its URL, whose query may hold what should
// not be seen, and which the administrator knows.
func plain(err error) error {
	if u := (*url.Error)(nil); errors.As(err, &u) {
		return u.Err
	}
	return err
}

// errAnswered marks an ErrUnavailable that says something of one request, and not that
// the service is away.
var errAnswered = errors.New("for this request")

// refusal is the error for a status that is no success, from a service that says so
// itself. bad is the sentinel for what it calls a bad request.
func refusal(status int, text string, bad error) error {
	what := answers(status)
	if text != "" {
		text = ": " + text
	}
	sentinel := volume.ErrDenied
	switch {
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
	case status == http.StatusNotFound:
		sentinel = volume.ErrPrecondition
	case status == http.StatusTooManyRequests:
		// A quota may be that of one role, or of one place.
		sentinel = answered{volume.ErrUnavailable}
	case status == http.StatusRequestTimeout, status == http.StatusPreconditionFailed:
		return unanswered{what, text}
	case status >= 400 && status < 500 && status < 470: // 472 and 473 are Vault's standby nodes
		sentinel = bad
	case status == http.StatusInternalServerError, status == http.StatusNotImplemented:
		// One place behind it may be broken, such as one database of many.
		sentinel = answered{volume.ErrUnavailable}
	default:
		return unanswered{what, text}
	}
	return fmt.Errorf("%w: %s%s", sentinel, what, text)
}

func answers(status int) string {
	return strings.TrimSpace(fmt.Sprintf("it answers %d %s", status, http.StatusText(status)))
}

// unanswered is an ErrUnavailable that says why nobody gets an answer.
type unanswered struct {
	// cause is for everybody who asks; detail may be what one of them was told.
	cause, detail string
}

func (u unanswered) Error() string { return volume.ErrUnavailable.Error() + ": " + u.cause + u.detail }
func (u unanswered) Unwrap() error { return volume.ErrUnavailable }

// causeOf is what everybody may be told of an error; "" if it is for one alone.
func causeOf(err error) string {
	var u unanswered
	if errors.As(err, &u) {
		return u.cause
	}
	return ""
}

// unreachable is the error for a request that got no answer to decode. said makes a text
// fit to be shown.
func unreachable(err error, said func(string) string) error {
	var e elsewhere
	if errors.As(err, &e) {
		return unanswered{cause: e.Error()}
	}
	return unanswered{cause: said(plain(err).Error())}
}

// answered is an error that is errAnswered too, and does not say so.
type answered struct{ error }

func (a answered) Unwrap() []error { return []error{a.error, errAnswered} }

// stranger is the error for an answer that the service did not make, such as that of a
// proxy. Nothing follows from it, whatever its status.
func stranger(status int) error {
	return unanswered{answers(status), ", in no way that the service would"}
}
