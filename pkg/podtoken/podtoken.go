package podtoken

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/secret"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// KeyTokens is the key under which kubelet passes the tokens: in the secrets where
// the CSIDriver object has serviceAccountTokenInSecrets (Kubernetes 1.35 and later),
// else in the volume context.
const KeyTokens = keyPrefix + "serviceAccount.tokens"

// Limits on what is read, in bytes. Kubelet's tokens have about one KiB.
const (
	maxTokens = 256 << 10
	maxToken  = 16 << 10
)

// Set is the tokens of one pod, by audience.
type Set struct {
	byAudience map[string]Token
	// bad says what is wrong with one that cannot be read.
	bad map[string]error
}

// Token is a service account token that is bound to a pod.
type Token struct {
	// Audience is the one under which kubelet passed it.
	Audience string
	// Text is the token itself.
	Text secret.Text
	// Claims are what it says of itself. Nobody has verified them here.
	Claims Claims
}

// Read reads the tokens of a NodePublishVolume: from its secrets, else from its
// volume context. Without any it is an empty Set; kubelet passes none for a raw
// block volume. What is not in kubelet's format is volume.ErrUnauthenticated; one token
// that cannot be read is so at For, and does not hide the others.
func Read(secrets, volumeContext map[string]string) (Set, error) {
	text, ok := secrets[KeyTokens]
	if !ok {
		text = volumeContext[KeyTokens]
	}
	if text == "" {
		return Set{}, nil
	}
	// The decoder's errors may quote what they are about, so none of them goes on.
	bad := func(what string) (Set, error) {
		return Set{}, fmt.Errorf("%w: read the pod's service account tokens: %s", volume.ErrUnauthenticated, what)
	}
	if len(text) > maxTokens {
		return bad(fmt.Sprintf("%d bytes are more than the limit of %d", len(text), maxTokens))
	}
	var byAudience map[string]struct {
		Token string `json:"token"`
	}
	if json.Unmarshal([]byte(text), &byAudience) != nil {
		return bad("they are not the JSON object by audience that kubelet passes")
	}
	set := Set{byAudience: make(map[string]Token, len(byAudience)), bad: map[string]error{}}
	for audience, t := range byAudience {
		if len(t.Token) > maxToken {
			_, set.bad[audience] = bad(fmt.Sprintf("the one for audience %q has %d bytes, the limit is %d", short(audience), len(t.Token), maxToken))
			continue
		}
		claims, err := parseClaims(t.Token)
		if err != nil {
			_, set.bad[audience] = bad(fmt.Sprintf("the one for audience %q %s", short(audience), err))
			continue
		}
		set.byAudience[audience] = Token{Audience: audience, Text: secret.New(t.Token), Claims: claims}
	}
	return set, nil
}

// Audiences are those that there is a token for, in order.
func (s Set) Audiences() []string { return slices.Sorted(maps.Keys(s.byAudience)) }

// For is the token for an audience. It is volume.ErrUnauthenticated if there is none:
// the CSIDriver object asks kubelet for none; or if that one cannot be read.
func (s Set) For(audience string) (Token, error) {
	if err := s.bad[audience]; err != nil {
		return Token{}, err
	}
	t, ok := s.byAudience[audience]
	if !ok {
		have := "none at all"
		if a := s.Audiences(); len(a) > 0 {
			have = "those for " + short(fmt.Sprintf("%q", a))
		}
		return Token{}, fmt.Errorf("%w: kubelet passed no token for audience %q, but %s: add the audience to tokenRequests of the CSIDriver object",
			volume.ErrUnauthenticated, audience, have)
	}
	return t, nil
}

// Leeway is by how much the clocks of this node and of the API server may differ.
const Leeway = 5 * time.Minute

// Check is nil if the token may be used for the pod at a time, which is that of this
// node's clock.
//
// It is volume.ErrUnavailable for a token that is not valid yet, even with Leeway: it
// will be. It is volume.ErrUnauthenticated for one that has expired, for another
// audience, or bound to another pod, and for one that is bound to none.
func (t Token) Check(pod Pod, now time.Time) error {
	c := t.Claims
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: the token of pod %s for audience %q %s", volume.ErrUnauthenticated, pod, t.Audience, fmt.Sprintf(format, args...))
	}
	if !slices.Contains(c.Audiences, t.Audience) {
		return bad("is for %s: kubelet or the API server is at fault", short(fmt.Sprintf("%q", c.Audiences)))
	}
	if c.Expires.IsZero() {
		return bad("never expires: only tokens of the TokenRequest API are taken")
	}
	// No leeway here: who verifies it may have none.
	if !now.Before(c.Expires) {
		return bad("expired at %s, it is %s now: kubelet passes a new one before that, unless it cannot reach the API server or the clocks differ", stamp(c.Expires), stamp(now))
	}
	for _, begin := range []time.Time{c.NotBefore, c.IssuedAt} {
		if now.Add(Leeway).Before(begin) {
			return fmt.Errorf("%w: the token of pod %s for audience %q is not valid before %s, it is %s now: the clocks of this node and of the API server differ",
				volume.ErrUnavailable, pod, t.Audience, stamp(begin), stamp(now))
		}
	}
	for _, m := range []struct{ what, have, want string }{
		{"pod", c.Pod, pod.Name},
		{"namespace", c.Namespace, pod.Namespace},
		{"pod UID", c.PodUID, pod.UID},
		{"service account", c.ServiceAccount, pod.ServiceAccount},
		{"subject", c.Subject, "system:serviceaccount:" + pod.Namespace + ":" + pod.ServiceAccount},
	} {
		if m.have != m.want || m.want == "" {
			return bad("is not this pod's: its %s is %q, wanted %q", m.what, short(m.have), m.want)
		}
	}
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// short bounds what a claim or an audience may add to an error.
func short(s string) string {
	const most = 256
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}
