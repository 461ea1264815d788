package rpc

import (
	"context"
	"maps"
	"slices"
	"strings"
)

// wait returns nil when no operation is left, or the error of ctx.
func (s *operations) wait(ctx context.Context) error {
	for {
		var next chan struct{}
		s.mu.Lock()
		for op := range s.all {
			next = op.done
		}
		s.mu.Unlock()
		if next == nil {
			return nil
		}
		select {
		case <-next:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// list names what is running, the longest first, or is "".
func (s *operations) list() string {
	s.mu.Lock()
	ops := slices.Collect(maps.Keys(s.all))
	s.mu.Unlock()
	slices.SortFunc(ops, func(a, b *operation) int { return a.started.Compare(b.started) })
	names := make([]string, len(ops))
	for i, op := range ops {
		names[i] = op.String()
	}
	return strings.Join(names, "; ")
}
