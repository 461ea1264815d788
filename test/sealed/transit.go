package sealed

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/credential"
	"github.com/holdfast-csi/holdfast/pkg/podtoken"
	"github.com/holdfast-csi/holdfast/pkg/secret"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// Transit is a Keeper for one pod: Vault's engine transit, asked with the pod's own
// token. The driver has no right of its own in it. A wrapping key that is not there, or
// with which the data key was not wrapped, is volume.ErrDenied.
type Transit struct {
	Session credential.Session
	Token   podtoken.Token
	Pod     podtoken.Pod
	// Mount is where transit is mounted, Key the name of the wrapping key in it.
	Mount, Key string
	// Context says for whom a data key is made, if the wrapping key is derived: the
	// same text is needed to unwrap. It is not a secret and protects nothing that
	// Vault's policies do not: whoever may use the key may name any context.
	Context string
}

// ContextOf is a derivation context for the pods of one service account.
func ContextOf(pod podtoken.Pod) string { return pod.Namespace + "/" + pod.ServiceAccount }

// New implements Keeper: transit/datakey/plaintext.
func (t Transit) New(ctx context.Context) (secret.Text, string, error) {
	fields, err := t.ask(ctx, "datakey/plaintext", map[string]string{"bits": strconv.Itoa(KeySize * 8)})
	return fields["plaintext"], fields["ciphertext"].Reveal(), err
}

// Unwrap implements Keeper: transit/decrypt.
func (t Transit) Unwrap(ctx context.Context, wrapped string) (secret.Text, error) {
	fields, err := t.ask(ctx, "decrypt", map[string]string{"ciphertext": wrapped})
	return fields["plaintext"], err
}

// Rewrap wraps a data key with the newest version of the wrapping key, without
// showing it: transit/rewrap.
func (t Transit) Rewrap(ctx context.Context, wrapped string) (string, error) {
	fields, err := t.ask(ctx, "rewrap", map[string]string{"ciphertext": wrapped})
	return fields["ciphertext"].Reveal(), err
}

func (t Transit) ask(ctx context.Context, verb string, with map[string]string) (map[string]secret.Text, error) {
	if err := t.Token.Check(t.Pod, time.Now()); err != nil {
		return nil, err
	}
	if t.Context != "" {
		with["context"] = base64.StdEncoding.EncodeToString([]byte(t.Context))
	}
	c, err := t.Session.Read(ctx, t.Token, credential.Read{Path: fmt.Sprintf("%s/%s/%s", t.Mount, verb, t.Key), With: with})
	if errors.Is(err, volume.ErrInvalid) {
		// Transit says 400 where the request is as it must be and the key is not: gone,
		// another one, or too old. Whoever restores or allows it makes the same request
		// work (builtin/logical/transit/path_decrypt.go).
		err = fmt.Errorf("%w: wrapping key %s of %s does not serve: %s", volume.ErrDenied, t.Key, t.Mount, err.Error())
	}
	return c.Fields, err
}
