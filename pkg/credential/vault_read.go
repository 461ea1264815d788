package credential

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/hashicorp/vault/api"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func (s *vaultSession) read(ctx context.Context, l *login, p place, read Read) (Credential, error) {
	doing := "read " + p.path
	begin := s.now()
	// A bad request is no word on what the pod may have: a role of a database that is
	// gone takes no login away that was got with it.
	answer, err := s.callFor(ctx, volume.ErrInvalid, doing, l.token.Reveal(), func(ctx context.Context) (*api.Secret, error) {
		if !p.write {
			return readLogical(ctx, l.client, p.path)
		}
		data := map[string]any{}
		for k, v := range read.With {
			data[k] = v
		}
		return l.client.Logical().WriteWithContext(ctx, p.path, data)
	})
	if err != nil {
		return Credential{}, err
	}
	fail := func(sentinel error, what string) (Credential, error) {
		return Credential{}, fmt.Errorf("source %s: %s: %w: %s", s.vault.service.source, doing, sentinel, what)
	}
	switch {
	case answer == nil && p.write, answer != nil && answer.Data == nil:
		return fail(volume.ErrUnavailable, "its answer is empty: either it is not that of a Vault server, or nothing is to be read at that path")
	case answer == nil && p.nested:
		return fail(volume.ErrPrecondition, "there is nothing at that path, or its engine is version 1 of kv (then set version: 1)")
	case answer == nil:
		return fail(volume.ErrPrecondition, "there is nothing at that path")
	}
	data := answer.Data
	if p.nested {
		inner, ok := data["data"].(map[string]any)
		if !ok {
			// A version that was deleted answers with metadata alone.
			return fail(volume.ErrPrecondition, "there is nothing at that path, or its engine is not version 2 of kv (then set version: 1)")
		}
		data = inner
	}
	c := Credential{Fields: fieldsOf(data), Issued: begin, Static: !p.write && answer.LeaseID == ""}
	life, err := lifeOf(answer.LeaseDuration)
	if err != nil {
		return fail(volume.ErrUnavailable, err.Error())
	}
	if p.engine == EnginePKI {
		if c.Expires, err = completeCertificate(c.Fields, begin); err != nil {
			return fail(volume.ErrUnavailable, err.Error())
		}
	}
	switch {
	case answer.LeaseID != "":
		c.lease = lease{id: answer.LeaseID, renewable: answer.Renewable, life: life, login: l}
		end := c.lease.until(begin.Add(life))
		l.lease(end)
		if c.Expires.IsZero() || end.Before(c.Expires) {
			c.Expires = end
		}
	case p.write && p.engine == "" && life > 0:
		c.Expires = begin.Add(life)
	case p.write && p.engine == "":
		c.Expires = c.endInside(begin)
	}
	return c, nil
}

// readLogical reads a path. It is nil if Vault says that there is nothing, and no more
// than that. An answer that is not of Vault's shape may be that of any server, and is
// an error: the client's own decoder takes whatever is JSON.
func readLogical(ctx context.Context, client *api.Client, path string) (*api.Secret, error) {
	raw, err := client.Logical().ReadRawWithContext(ctx, path)
	if raw == nil {
		return nil, err
	}
	defer raw.Body.Close()
	if err != nil && raw.StatusCode != http.StatusNotFound {
		return nil, err
	}
	body, readErr := io.ReadAll(raw.Body)
	if readErr != nil {
		return nil, readErr
	}
	var shape struct {
		RequestID string         `json:"request_id"`
		Errors    *[]string      `json:"errors"`
		Warnings  []string       `json:"warnings"`
		Data      map[string]any `json:"data"`
	}
	decodeErr := json.Unmarshal(body, &shape)
	switch {
	case decodeErr == nil && shape.Data != nil:
		return api.ParseSecret(bytes.NewReader(body))
	case err == nil:
		return nil, errors.New("an answer without data")
	case decodeErr != nil || shape.Errors == nil && (shape.RequestID == "" || len(shape.Warnings) == 0):
		return nil, err // a 404 of another server
	}
	// Vault says what is wrong with a path in errors if no engine is mounted there, and
	// in warnings if an engine does not have it.
	var words []string
	if shape.Errors != nil {
		words = *shape.Errors
	}
	for _, w := range shape.Warnings {
		if strings.Contains(w, "versioned K/V") {
			words = append(words, "it is version 2 of kv: name the engine, without version: 1")
		}
		words = append(words, w)
	}
	if len(words) == 0 {
		return nil, nil
	}
	return nil, &api.ResponseError{StatusCode: raw.StatusCode, Errors: words}
}
