package credential

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/podtoken"
	"github.com/holdfast-csi/holdfast/pkg/secret"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// AWSConfig is a source of kind aws: AssumeRoleWithWebIdentity of AWS' Security Token
// Service.
type AWSConfig struct {
	// Region is whose regional endpoint is asked, such as eu-central-1.
	Region string `json:"region"`
	// Audience is that of the pod's tokens; "" means sts.amazonaws.com.
	Audience string `json:"audience,omitempty"`
	// Roles are the ARNs that pods may name as their role; a * at the end stands for
	// anything.
	Roles []string `json:"roles"`
	// Role is that of pods which name none.
	Role string `json:"role,omitempty"`
	// Seconds is how long the credentials live: 900 to 43200; 0 means 3600.
	Seconds int `json:"seconds,omitempty"`
	// Endpoint replaces AWS' own, for private endpoints.
	Endpoint string `json:"endpoint,omitempty"`
	Trust
}

// aws is a Source.
type aws struct {
	cfg      AWSConfig
	service  *service
	endpoint string
}

var awsRegion = regexp.MustCompile(`^[a-z]{2,4}(-[a-z0-9]+)+$`)

// awsEndpoint is where AWS answers for a region. Each partition of AWS has a domain of
// its own; of those for which none is known here the administrator names the endpoint.
func awsEndpoint(region string) (string, error) {
	if !awsRegion.MatchString(region) {
		return "", fmt.Errorf("region %q: want one such as eu-central-1", region)
	}
	domain := "amazonaws.com"
	switch first, rest, _ := strings.Cut(region, "-"); {
	case first == "cn":
		domain = "amazonaws.com.cn"
	case len(first) > 2, strings.HasPrefix(rest, "iso"):
		return "", fmt.Errorf("region %q: it is of a partition of AWS whose domain is not known here: set endpoint", region)
	}
	return "https://sts." + region + "." + domain + "/", nil
}

func newAWS(name string, cfg AWSConfig) (Source, error) {
	endpoint := cfg.Endpoint
	if endpoint == "" {
		var err error
		if endpoint, err = awsEndpoint(cfg.Region); err != nil {
			return nil, err
		}
	}
	address, ca, err := cfg.Trust.resolve(endpoint)
	if err != nil {
		return nil, err
	}
	if cfg.Seconds == 0 {
		cfg.Seconds = 3600
	}
	if cfg.Seconds < 900 || cfg.Seconds > 43200 {
		return nil, fmt.Errorf("seconds: %d: want 900 to 43200", cfg.Seconds)
	}
	if len(cfg.Roles) == 0 && cfg.Role == "" {
		return nil, errors.New("roles is missing: list the ARNs that pods may assume")
	}
	cfg.Audience = firstOf(cfg.Audience, "sts.amazonaws.com")
	return &aws{cfg: cfg, service: newService(name, address, ca), endpoint: address.String()}, nil
}

func (a *aws) Kind() string             { return "aws" }
func (a *aws) Audience() string         { return a.cfg.Audience }
func (a *aws) Away() (time.Time, bool)  { return a.service.circuit.away() }
func (a *aws) Open(role string) Session { return &awsSession{a, firstOf(role, a.cfg.Role)} }

// Validate implements Source.
func (a *aws) Validate(role string, reads []Read) error {
	arn := firstOf(role, a.cfg.Role)
	if arn == "" || arn != a.cfg.Role && !matches(a.cfg.Roles, arn) {
		return fmt.Errorf("%w: source %s: role %q is none of the ARNs that the administrator allows", volume.ErrInvalid, a.service.source, arn)
	}
	return checkBare(a.service.source, reads)
}

// awsSession is a Session that keeps nothing.
type awsSession struct {
	aws  *aws
	role string
}

// Renew implements Session: a role is assumed anew.
func (s *awsSession) Renew(_ context.Context, c Credential) (Credential, bool) { return c, false }

// Check implements Session: nobody can be asked.
func (s *awsSession) Check(context.Context, podtoken.Token, []Read) error { return nil }

// Close implements Session.
func (s *awsSession) Close(context.Context) error { return nil }

// Read implements Session. The credentials are access_key_id, secret_access_key and
// session_token.
func (s *awsSession) Read(ctx context.Context, token podtoken.Token, _ Read) (Credential, error) {
	doing := "assume role " + s.role
	form := url.Values{
		"Action": {"AssumeRoleWithWebIdentity"}, "Version": {"2011-06-15"}, "RoleArn": {s.role},
		"RoleSessionName": {sessionName(token.Claims)}, "WebIdentityToken": {token.Text.Reveal()},
		"DurationSeconds": {strconv.Itoa(s.aws.cfg.Seconds)},
	}
	var answer struct {
		Result struct {
			Credentials struct {
				AccessKeyID     string `xml:"AccessKeyId"`
				SecretAccessKey string
				SessionToken    string
				Expiration      time.Time
			}
		} `xml:"AssumeRoleWithWebIdentityResult"`
	}
	begin := time.Now()
	err := s.aws.service.ask(ctx, token.Claims.Namespace, doing, func(ctx context.Context) error {
		text, err := s.aws.service.send(ctx, post{doing: doing, target: s.aws.endpoint, contentType: formType, body: form.Encode(), hide: token.Text, explain: awsError, bad: volume.ErrDenied})
		if err != nil {
			return err
		}
		if xml.Unmarshal([]byte(text), &answer) != nil {
			return fmt.Errorf("%w: its answer is not that of a security token service", volume.ErrUnavailable)
		}
		return nil
	})
	if err != nil {
		return Credential{}, asLogin(err)
	}
	c := answer.Result.Credentials
	if c.AccessKeyID == "" || c.SecretAccessKey == "" || c.SessionToken == "" || c.Expiration.Before(begin) || c.Expiration.Sub(begin) > maxLife {
		return Credential{}, s.aws.service.nonsense(doing, "its answer has no credentials that are valid now, by the clock of this node")
	}
	return Credential{
		Fields: map[string]secret.Text{
			"access_key_id": secret.New(c.AccessKeyID), "secret_access_key": secret.New(c.SecretAccessKey), "session_token": secret.New(c.SessionToken),
			"expiration": secret.New(c.Expiration.UTC().Format(time.RFC3339)),
		},
		Issued: begin, Expires: notAfter(c.Expiration, begin, time.Duration(s.aws.cfg.Seconds)*time.Second),
	}, nil
}

// sessionName names the pod in the records of AWS: 2 to 64 characters of [\w+=,.@-].
func sessionName(c podtoken.Claims) string {
	name := c.Namespace + "." + c.Pod
	if len(name) > 64 {
		name = name[:64]
	}
	return name
}

// awsError is the error of an AWS query API (the common errors of the API, and those of
// AssumeRoleWithWebIdentity).
func awsError(body []byte) explained {
	var e struct {
		Error struct{ Code, Message string }
	}
	if xml.Unmarshal(body, &e) != nil {
		return explained{}
	}
	out := explain(e.Error.Code, e.Error.Message, "Throttling", "ThrottlingException", "RequestLimitExceeded", "ServiceUnavailable", "InternalFailure")
	// AWS says so with the code that it also has for a token which is wrong, and with
	// IDPCommunicationError only after it could not reach the cluster at all.
	out.keys = e.Error.Code == "IDPCommunicationError" ||
		e.Error.Code == "InvalidIdentityToken" && strings.Contains(e.Error.Message, "retrieve verification key")
	return out
}
