package credential

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/holdfast-csi/holdfast/pkg/secret"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// formType is the type of the body of requests to token services.
const formType = "application/x-www-form-urlencoded"

// nonsense is the error for an answer that makes no sense.
func (s *service) nonsense(doing, what string) error {
	return fmt.Errorf("source %s: %s: %w: %s", s.source, doing, volume.ErrUnavailable, what)
}

// post is one request with a body.
type post struct {
	tenant, doing string
	target        string
	contentType   string
	body          string
	bearer        secret.Text // none if it is empty
	hide          secret.Text // is in the body, and an error might quote it
	// explain finds in the body of a refusal what the service calls its error.
	explain func([]byte) explained
	// bad is the sentinel for what the service calls a bad request.
	bad error
}

// post makes a request and decodes the JSON of the answer.
func (s *service) post(ctx context.Context, p post, answer any) error {
	return s.ask(ctx, p.tenant, p.doing, func(ctx context.Context) error {
		text, err := s.send(ctx, p)
		if err != nil {
			return err
		}
		decoder := json.NewDecoder(strings.NewReader(text))
		decoder.UseNumber()
		if decoder.Decode(answer) != nil {
			return fmt.Errorf("%w: its answer is no JSON of the kind that was asked for", volume.ErrUnavailable)
		}
		return nil
	})
}

// send is one POST and the whole body of its answer.
func (s *service) send(ctx context.Context, p post) (string, error) {
	said := func(text string) string { return said(text, s.shown(p.doing), p.hide.Reveal(), p.bearer.Reveal()) }
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.target, strings.NewReader(p.body))
	if err != nil {
		return "", fmt.Errorf("make a request: %w", err)
	}
	req.Header.Set("Content-Type", p.contentType)
	req.Header.Set("Accept", "application/json, text/xml")
	if !p.bearer.IsEmpty() {
		req.Header.Set("Authorization", "Bearer "+p.bearer.Reveal())
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return "", unreachable(err, said)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", fmt.Errorf("%w: read its answer: %w", volume.ErrUnavailable, err)
	}
	if resp.StatusCode/100 != 2 {
		e := p.explain(text)
		if !isCode(e.code) {
			e.code = said(e.code)
		}
		switch what := strings.TrimSpace(e.code + " " + said(e.message)); {
		case e.code == "":
			return "", stranger(resp.StatusCode)
		case e.keys:
			return "", fmt.Errorf("%w: %s: %s: it cannot fetch the keys of the cluster", answered{volume.ErrUnavailable}, answers(resp.StatusCode), what)
		case e.passing:
			return "", unanswered{answers(resp.StatusCode), ": " + what}
		default:
			return "", refusal(resp.StatusCode, what, p.bad)
		}
	}
	return string(text), nil
}

// explained is what a service calls its error; code is "" if it says nothing that it
// would.
type explained struct {
	code, message string
	// passing says that the service itself, or what it asks, is in trouble.
	passing bool
	// keys says that the service cannot fetch the keys with which the cluster signs
	// tokens. It refuses everybody then, or all who use the same description of the
	// cluster there, and none of them for good.
	keys bool
}

// isCode says whether this is a code of a cloud's own that said would hide: its words
// are joined, or written large.
func isCode(code string) bool {
	switch code {
	// google/rpc/code.proto
	case "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "UNAUTHENTICATED",
		"RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS":
	// AWS STS, AssumeRoleWithWebIdentity
	case "ExpiredTokenException", "IDPCommunicationError", "IDPRejectedClaim", "InvalidIdentityToken", "MalformedPolicyDocument",
		"PackedPolicyTooLarge", "RegionDisabledException":
	// AWS, errors of all services
	case "AccessDenied", "AccessDeniedException", "ExpiredToken", "IncompleteSignature", "InternalError", "InternalFailure", "InvalidAction",
		"InvalidClientTokenId", "InvalidParameterCombination", "InvalidParameterValue", "MalformedQueryString", "MissingAction", "MissingParameter",
		"NotAuthorized", "OptInRequired", "RequestExpired", "RequestLimitExceeded", "ServiceUnavailable", "SignatureDoesNotMatch", "Throttling",
		"ThrottlingException", "UnknownOperationException", "ValidationError", "ValidationException":
	default:
		return false
	}
	return true
}

func explain(code, message string, passing ...string) explained {
	if code == "" {
		return explained{}
	}
	return explained{code: code, message: message, passing: slices.Contains(passing, code)}
}

// oauthError is the error of a token service (RFC 6749, sections 4.1.2.1 and 5.2).
func oauthError(body []byte) explained {
	var e struct {
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}
	if json.Unmarshal(body, &e) != nil {
		return explained{}
	}
	out := explain(e.Error, e.Description, "temporarily_unavailable", "server_error")
	// Google's (IAM, troubleshoot workload identity federation).
	out.keys = e.Error == "invalid_grant" && strings.Contains(e.Description, "connecting to the given credential's issuer")
	return out
}

// googleError is the error of a Google API (google/rpc/code.proto).
func googleError(body []byte) explained {
	var e struct {
		Error struct {
			Status  string `json:"status"`
			Message string `json:"message"`
		} `json:"error"`
	}
	if json.Unmarshal(body, &e) != nil {
		return explained{}
	}
	return explain(e.Error.Status, e.Error.Message, "UNAVAILABLE", "INTERNAL", "UNKNOWN", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "ABORTED", "CANCELLED")
}
