package credential

import (
	"context"
	"errors"
	"fmt"

	"github.com/hashicorp/vault/api"

	"github.com/holdfast-csi/holdfast/pkg/podtoken"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// Check implements Session. It asks sys/capabilities-self, which Vault's policy default
// allows everybody, and so finds a policy that was changed without making a new
// certificate or login each time.
func (s *vaultSession) Check(ctx context.Context, token podtoken.Token, reads []Read) error {
	s.tenant = token.Claims.Namespace
	if s.now().Before(s.muted) {
		return nil
	}
	var paths []string
	for _, r := range reads {
		p, err := s.vault.place(r)
		if err != nil {
			return s.vault.invalid(err)
		}
		paths = append(paths, p.path)
	}
	fresh := false
	if s.current == nil || !s.current.alive(s.now()) {
		if err := s.logIn(ctx, token); err != nil {
			return err
		}
		fresh = true
	}
	answer, err := s.capabilities(ctx, paths)
	if errors.Is(err, volume.ErrDenied) && !fresh && !s.now().Before(s.again) {
		// The login may have been revoked.
		before := s.current
		if err := s.logIn(ctx, token); err != nil {
			return err
		}
		if answer, err = s.capabilities(ctx, paths); errors.Is(err, volume.ErrDenied) {
			s.useless(ctx, before)
		}
	}
	if errors.Is(err, volume.ErrDenied) {
		s.muted = s.now().Add(mutePause)
		return nil
	}
	if err != nil || answer == nil {
		return err
	}
	for _, path := range paths {
		list, ok := answer.Data[path].([]any)
		if ok && len(list) == 1 && list[0] == "deny" {
			return fmt.Errorf("source %s: %w: no policy of the pod's allows %s any more", s.vault.service.source, volume.ErrDenied, path)
		}
	}
	return nil
}

func (s *vaultSession) capabilities(ctx context.Context, paths []string) (*api.Secret, error) {
	l := s.current
	return s.call(ctx, "ask what the pod may do", l.token.Reveal(), func(ctx context.Context) (*api.Secret, error) {
		return l.client.Logical().WriteWithContext(ctx, "sys/capabilities-self", map[string]any{"paths": paths})
	})
}
