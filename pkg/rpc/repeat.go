package rpc

import (
	"context"
	"errors"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// repeat answers an operation that waited for its locks in vain, if it asks for what is
// so already. Kubelet repeats the publications of a volume at a pace of its own, also
// during a snapshot that takes long; such a call has nothing to do that the snapshot
// could be in the way of, and ABORTED would be an event on a pod that is well.
//
// What it asks for is looked at with the paths locked, so that nobody publishes or
// unpublishes there meanwhile.
func (s *operations) repeat(op *operation, keys []key, err error) (resp any, ok bool) {
	if s.repeats == nil || !errors.Is(err, volume.ErrBusy) {
		return nil, false
	}
	var paths []key
	for _, k := range keys {
		if k.domain == domainPath {
			paths = append(paths, k)
		}
	}
	if len(paths) == 0 {
		return nil, false
	}
	c := &claim{keys: paths, holder: op}
	if s.locks.acquire(s.base, c, 0) != nil {
		return nil, false
	}
	defer s.locks.release(c)
	ctx, cancel := context.WithTimeout(s.base, s.timeout)
	defer cancel()
	resp, err = guard(op.req, func() (any, error) {
		resp, ok := s.repeats(ctx, op.req)
		if !ok {
			return nil, volume.ErrBusy
		}
		return resp, nil
	})
	return resp, err == nil
}
