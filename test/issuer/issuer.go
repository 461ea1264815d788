// Package issuer signs service account tokens as an API server does, for tests that
// have none: with the claims of Kubernetes, bound to a pod, for an audience.
//
// It promises that what it signs can be verified with Keys, and lets a test change
// every claim, to make a token that is wrong in one way. It is no part of what is
// shipped, and no token of it opens anything.
package issuer

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/holdfast-csi/holdfast/pkg/podtoken"
)

// URL is the issuer that the tokens name.
const URL = "https://kubernetes.default.svc.cluster.local"

// Issuer has a key of its own. Its methods panic where a test could not go on.
type Issuer struct {
	key    *ecdsa.PrivateKey
	signer jose.Signer
}

// New is an Issuer with a new key.
func New() *Issuer {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, (&jose.SignerOptions{}).WithHeader("kid", "key-1"))
	must(err)
	return &Issuer{key: key, signer: signer}
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// Keys is the JSON Web Key Set that verifies the tokens.
func (i *Issuer) Keys() []byte {
	text, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: i.key.Public(), KeyID: "key-1", Algorithm: "ES256", Use: "sig"}}})
	must(err)
	return text
}

// Claims are those of a token, by name.
type Claims map[string]any

// ClaimsOf are what an API server would say of a pod.
func ClaimsOf(pod podtoken.Pod, audience string, issued time.Time, life time.Duration) Claims {
	return Claims{
		"iss": URL, "aud": []string{audience}, "jti": strconv.FormatInt(issued.UnixNano(), 36),
		"sub": fmt.Sprintf("system:serviceaccount:%s:%s", pod.Namespace, pod.ServiceAccount),
		"iat": issued.Unix(), "nbf": issued.Unix(), "exp": issued.Add(life).Unix(),
		"kubernetes.io": map[string]any{
			"namespace":      pod.Namespace,
			"node":           map[string]any{"name": "node-1", "uid": "a0000000-0000-4000-8000-000000000001"},
			"pod":            map[string]any{"name": pod.Name, "uid": pod.UID},
			"serviceaccount": map[string]any{"name": pod.ServiceAccount, "uid": "a0000000-0000-4000-8000-000000000002"},
		},
	}
}

// Sign makes the token of claims.
func (i *Issuer) Sign(claims Claims) string {
	text, err := jwt.Signed(i.signer).Claims(map[string]any(claims)).Serialize()
	must(err)
	return text
}

// Token is a token of a pod that is valid from now on.
func (i *Issuer) Token(pod podtoken.Pod, audience string, life time.Duration) string {
	return i.Sign(ClaimsOf(pod, audience, time.Now(), life))
}

// Tokens is what kubelet passes under podtoken.KeyTokens.
func Tokens(byAudience map[string]string) string {
	type status struct {
		Token   string    `json:"token"`
		Expires time.Time `json:"expirationTimestamp"`
	}
	all := map[string]status{}
	for audience, token := range byAudience {
		all[audience] = status{token, time.Now().Add(time.Hour).UTC().Truncate(time.Second)}
	}
	text, err := json.Marshal(all)
	must(err)
	return string(text)
}

// Context is the volume context that kubelet makes of a pod.
func Context(pod podtoken.Pod) map[string]string {
	return map[string]string{
		podtoken.KeyPodName: pod.Name, podtoken.KeyPodNamespace: pod.Namespace, podtoken.KeyPodUID: pod.UID,
		podtoken.KeyServiceAccount: pod.ServiceAccount, "csi.storage.k8s.io/ephemeral": "true",
	}
}
