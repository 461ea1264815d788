package identityvolume

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/credential"
	"github.com/holdfast-csi/holdfast/pkg/payload"
	"github.com/holdfast-csi/holdfast/pkg/podtoken"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// turn looks what is to be done, and does it.
func (h *held) turn(ctx context.Context) {
	h.mu.Lock()
	token, polled := h.token, h.polled
	h.mu.Unlock()
	now := h.now()
	due := h.failures > 0 && !now.Before(h.looked.Add(h.pace.firstRetry/2)) || h.files == nil || h.mend() != nil
	for _, c := range h.have {
		if at, ok := dueAt(c); ok && !now.Before(at) {
			due = true
		}
	}
	if !due && !(polled && now.Sub(h.looked) >= h.pace.poll) {
		h.expire()
		return
	}
	h.mu.Lock()
	h.polled = false
	h.mu.Unlock()
	err := h.refresh(ctx, token)
	if ctx.Err() != nil {
		return // it was unpublished meanwhile, or the driver stops
	}
	h.settle(err)
	h.expire()
}

// mend makes files that were damaged what they should be, which takes nobody's answer.
func (h *held) mend() error {
	if h.intact(h.files) {
		return nil
	}
	end := h.end()
	if err := h.put(h.files, payload.Set{Written: h.now(), Expires: end}); err != nil {
		return err
	}
	h.written = second(end)
	return nil
}

// refresh reads what is to be read, and if all of it came, makes the files of it. If
// not all of it came, what the files are made of is kept alive all the same. After
// payload.ErrLeft the files are made. Its error has nothing secret.
func (h *held) refresh(ctx context.Context, token podtoken.Token) (err error) {
	defer func() { err = h.hide(err) }()
	h.looked = h.now()
	if h.orphaned != nil {
		return h.orphaned
	}
	all := make(map[string]credential.Credential, len(h.spec.reads))
	var untouched []credential.Read // what is as it was, and nobody was asked about
	var failed error
	fail := func(err error) {
		// What fails for reasons of its own must not hide what was taken away.
		if failed == nil || refusal(err) {
			failed = err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(h.spec.reads)) {
		c, asked, ok := h.alive(ctx, name)
		if !ok && h.goesOn(ctx, failed) {
			var err error
			if c, err = h.read(ctx, name, token); err != nil {
				fail(fmt.Errorf("credential %s: %w", name, err))
			}
		}
		all[name] = c
		if !asked && ok {
			untouched = append(untouched, h.spec.reads[name])
		}
	}
	if len(untouched) > 0 && h.goesOn(ctx, failed) {
		err := token.Check(h.pod, h.looked)
		if err == nil {
			err = h.session.Check(ctx, token, untouched)
		}
		if err != nil {
			fail(err)
		}
	}
	if failed != nil {
		return errors.Join(failed, h.extend())
	}
	files, err := h.spec.render(all, h.gid)
	if err != nil {
		return errors.Join(err, h.extend())
	}
	var left error
	if h.files == nil || !same(files, h.files) || h.written != second(endOf(all)) || !h.intact(files) {
		left = h.put(files, payload.Set{Written: h.now(), Expires: endOf(all)})
		if left != nil && !errors.Is(left, payload.ErrLeft) {
			return errors.Join(left, h.extend())
		}
	}
	h.have, h.files, h.before, h.written = all, files, time.Time{}, second(endOf(all))
	h.fresh = map[string]credential.Credential{}
	return left
}

// goesOn says whether more is to be asked after what failed so far: not of a service
// that is away, and not once something is refused.
func (h *held) goesOn(ctx context.Context, failed error) bool {
	if failed == nil {
		return true
	}
	_, away := h.source.Away()
	return !away && !refusal(failed) && ctx.Err() == nil
}

// refusal says whether an error is the word of the service that the pod may not have
// something, or that it is not there any more.
func refusal(err error) bool {
	return (errors.Is(err, volume.ErrDenied) || errors.Is(err, volume.ErrPrecondition)) && !errors.Is(err, errOwn)
}

// extend writes down that the files are valid for longer than was written with them.
func (h *held) extend() error {
	end := endOf(h.have)
	if len(h.have) == 0 || h.written == second(end) {
		return nil
	}
	h.mu.Lock()
	h.state.Credentials = validities(h.have)
	h.mu.Unlock()
	if err := h.put(h.files, payload.Set{Written: h.now(), Expires: end}); err != nil {
		return err
	}
	h.written = second(end)
	return nil
}

// second is a time as it is written with the files.
func second(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

// alive is a credential at hand that is valid for a while: as it is, or the same with a
// longer life. asked says whether the service was asked for it. It needs no token.
func (h *held) alive(ctx context.Context, name string) (c credential.Credential, asked, ok bool) {
	for _, from := range []map[string]credential.Credential{h.fresh, h.have} {
		c, ok := from[name]
		if !ok || c.Static {
			continue
		}
		if at, ok := dueAt(c); !ok || h.now().Before(at) {
			return c, false, true
		}
		if renewed, ok := h.session.Renew(ctx, c); ok {
			// Its life begins again, whatever becomes of the others.
			renewed.Issued = h.now()
			from[name] = renewed
			return renewed, true, true
		}
	}
	return credential.Credential{}, true, false
}

// read gets a new credential.
func (h *held) read(ctx context.Context, name string, token podtoken.Token) (credential.Credential, error) {
	if err := token.Check(h.pod, h.looked); err != nil {
		return credential.Credential{}, err
	}
	c, err := h.session.Read(ctx, token, h.spec.reads[name])
	if err != nil {
		return credential.Credential{}, err
	}
	if !c.Expires.IsZero() && !c.Expires.After(h.now()) {
		return credential.Credential{}, fmt.Errorf("%w: what came has ended already: look at the clocks", volume.ErrUnavailable)
	}
	h.fresh[name] = c
	return c, nil
}

func endOf(all map[string]credential.Credential) time.Time {
	h := held{have: all}
	return h.end()
}

func same(a, b []payload.File) bool {
	return slices.EqualFunc(a, b, func(a, b payload.File) bool {
		return a.Name == b.Name && a.Mode == b.Mode && a.Content.Equal(b.Content)
	})
}
