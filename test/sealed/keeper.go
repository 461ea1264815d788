package sealed

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"fmt"

	"github.com/holdfast-csi/holdfast/pkg/secret"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// Keeper has the key that data keys are wrapped with, and asks who wants them. It acts
// for one pod.
type Keeper interface {
	// New makes a data key of KeySize bytes, in base64, and the same key wrapped. It is
	// volume.ErrDenied if the pod may not use the wrapping key, or there is none.
	New(ctx context.Context) (key secret.Text, wrapped string, err error)
	// Unwrap gives a data key back. It is volume.ErrDenied if the pod may not have it,
	// or the wrapping key is gone or is another one.
	Unwrap(ctx context.Context, wrapped string) (secret.Text, error)
}

// Memory is a Keeper for tests that need no Vault: its wrapping key is in memory. It
// refuses everybody while Refuse is set.
type Memory struct {
	wrapping cipher.AEAD
	Refuse   bool
}

// NewMemory is a Memory with a new wrapping key.
func NewMemory() (*Memory, error) {
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	return &Memory{wrapping: aead}, err
}

// New implements Keeper.
func (m *Memory) New(context.Context) (secret.Text, string, error) {
	if m.Refuse {
		return secret.Text{}, "", fmt.Errorf("make a data key: %w", volume.ErrDenied)
	}
	key := make([]byte, KeySize)
	if _, err := rand.Read(key); err != nil {
		return secret.Text{}, "", err
	}
	wrapped := m.wrapping.Seal(nil, nil, key, nil)
	return secret.New(base64.StdEncoding.EncodeToString(key)), base64.StdEncoding.EncodeToString(wrapped), nil
}

// Unwrap implements Keeper.
func (m *Memory) Unwrap(_ context.Context, wrapped string) (secret.Text, error) {
	if m.Refuse {
		return secret.Text{}, fmt.Errorf("unwrap a data key: %w", volume.ErrDenied)
	}
	b, err := base64.StdEncoding.DecodeString(wrapped)
	if err != nil {
		return secret.Text{}, err
	}
	key, err := m.wrapping.Open(nil, nil, b, nil)
	if err != nil {
		return secret.Text{}, fmt.Errorf("unwrap a data key: %w", err)
	}
	return secret.New(base64.StdEncoding.EncodeToString(key)), nil
}
