package podtoken

import (
	"errors"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// Claims are what a token says of itself.
type Claims struct {
	Subject   string
	Audiences []string
	// Expires, NotBefore and IssuedAt are zero if the token does not have them.
	Expires, NotBefore, IssuedAt time.Time
	// What the token is bound to (kubernetes pkg/serviceaccount/claims.go).
	Namespace, ServiceAccount string
	Pod, PodUID               string
}

// kubernetesClaims is the private claim of Kubernetes' tokens.
type kubernetesClaims struct {
	Kubernetes struct {
		Namespace      string `json:"namespace"`
		Pod            ref    `json:"pod"`
		ServiceAccount ref    `json:"serviceaccount"`
	} `json:"kubernetes.io"`
}

type ref struct {
	Name string `json:"name"`
	UID  string `json:"uid"`
}

// algorithms are those that an API server may sign with (kubernetes
// pkg/serviceaccount/jwt.go, and KEP-740 for external signers). None is not among
// them, nor is anything that is signed with a key that both sides have.
func algorithms() []jose.SignatureAlgorithm {
	return []jose.SignatureAlgorithm{
		jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
	}
}

var (
	errNotJWT  = errors.New("is no signed JSON Web Token")
	errPayload = errors.New("has claims that are not those of a service account token")
)

// parseClaims reads the claims of a token. Its errors have nothing of the token.
func parseClaims(text string) (Claims, error) {
	token, err := jwt.ParseSigned(text, algorithms())
	if err != nil {
		return Claims{}, errNotJWT
	}
	var std jwt.Claims
	var own kubernetesClaims
	if err := token.UnsafeClaimsWithoutVerification(&std, &own); err != nil {
		return Claims{}, errPayload
	}
	k := own.Kubernetes
	return Claims{
		Subject: std.Subject, Audiences: std.Audience,
		Expires: timeOf(std.Expiry), NotBefore: timeOf(std.NotBefore), IssuedAt: timeOf(std.IssuedAt),
		Namespace: k.Namespace, ServiceAccount: k.ServiceAccount.Name, Pod: k.Pod.Name, PodUID: k.Pod.UID,
	}, nil
}

func timeOf(d *jwt.NumericDate) time.Time {
	if d == nil {
		return time.Time{}
	}
	return d.Time()
}
