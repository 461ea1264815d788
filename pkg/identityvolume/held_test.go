package identityvolume

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/credential"
	"github.com/holdfast-csi/holdfast/pkg/payload"
	"github.com/holdfast-csi/holdfast/pkg/podtoken"
	"github.com/holdfast-csi/holdfast/pkg/secret"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/test/issuer"
)

// leasing is a Session that gives leases by the clock of a bench.
type leasing struct {
	b     *bench
	no    map[string]error // by path
	renew bool
	reads int
}

func (l *leasing) Read(_ context.Context, _ podtoken.Token, read credential.Read) (credential.Credential, error) {
	if err := l.no[read.Path]; err != nil {
		return credential.Credential{}, err
	}
	l.reads++
	return credential.Credential{
		Fields: map[string]secret.Text{"x": secret.New(fmt.Sprint(l.reads))}, Issued: l.b.now, Expires: l.b.now.Add(time.Hour),
	}, nil
}

func (l *leasing) Renew(_ context.Context, c credential.Credential) (credential.Credential, bool) {
	c.Expires = l.b.now.Add(time.Hour)
	return c, l.renew
}

func (l *leasing) Check(context.Context, podtoken.Token, []credential.Read) error { return nil }
func (l *leasing) Close(context.Context) error                                    { return nil }

// serving is a source that is never away.
type serving struct{ credential.Source }

func (serving) Away() (since time.Time, away bool) { return time.Time{}, false }

// bench is a volume without a mount, and with a clock that is set by hand.
type bench struct {
	*held
	*leasing
	t       *testing.T
	now     time.Time
	on      []payload.File // what the pod sees
	set     payload.Set
	puts    int
	notices []Reason
	full    error // what put says, and does nothing
	left    error // what put says that has worked
}

func newBench(t *testing.T) *bench {
	t.Helper()
	pod := podNamed("web")
	parsed, err := parseSpec(map[string]string{
		AttributeSource: "main", AttributeOnExpiry: "fence",
		AttributeCredentials: "a: {path: p/a}\nb: {path: p/b}", AttributeFiles: "a: a.x\nb: b.x",
	})
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, now: time.Now().Truncate(time.Second)}
	b.leasing = &leasing{b: b, no: map[string]error{}, renew: true}
	b.held = &held{
		id: "csi-web", pod: pod, spec: parsed, source: serving{}, session: b.leasing, pace: defaultPace(), now: func() time.Time { return b.now },
		put: func(files []payload.File, set payload.Set) error {
			if b.full != nil {
				return b.full
			}
			b.on, b.set, b.puts = files, set, b.puts+1
			return b.left
		},
		blank:  func() error { b.on = nil; return nil },
		intact: func(files []payload.File) bool { return same(files, b.on) && b.left == nil },
		notice: func(r Reason, _ string) { b.notices = append(b.notices, r) },
		count:  func(string) {},
		have:   map[string]credential.Credential{}, fresh: map[string]credential.Credential{},
		wake: make(chan struct{}, 1),
	}
	b.token = b.tokenUntil(24 * time.Hour)
	b.pass(0)
	if len(b.on) != 2 || b.puts != 1 {
		t.Fatalf("at first there are %d files", len(b.on))
	}
	return b
}

func (b *bench) tokenUntil(d time.Duration) podtoken.Token {
	b.t.Helper()
	set, err := podtoken.Read(map[string]string{podtoken.KeyTokens: issuer.Tokens(map[string]string{
		"vault": issuer.New().Token(podNamed("web"), "vault", d),
	})}, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	token, err := set.For("vault")
	if err != nil {
		b.t.Fatal(err)
	}
	return token
}

// pass lets time go by, with what the volume does in it.
func (b *bench) pass(d time.Duration) {
	const step = 5 * time.Second
	for end := b.now.Add(d); ; b.now = b.now.Add(step) {
		b.polled = true
		b.turn(b.t.Context())
		if !b.now.Before(end) {
			return
		}
	}
}

func (b *bench) wantFenced(want bool) {
	b.t.Helper()
	fenced := b.state.Fenced
	for _, f := range b.on {
		if (f.Content.Len() == 0) != want {
			b.t.Errorf("file %s has %d bytes, fenced should be %v", f.Name, f.Content.Len(), want)
		}
	}
	if fenced != want {
		b.t.Errorf("fenced is %v, notices %q", fenced, b.notices)
	}
}

func TestTheEndOfARenewedLeaseIsWrittenDown(t *testing.T) {
	b := newBench(t)
	first := b.set.Expires
	b.pass(50 * time.Minute)
	if !b.set.Expires.After(first.Add(30*time.Minute)) || b.reads != 2 {
		t.Errorf("written is the end %s, at first it was %s; %d reads", b.set.Expires, first, b.reads)
	}
	if b.puts > 3 {
		t.Errorf("written %d times for one renewal of two leases", b.puts)
	}
	// What a driver after this one knows of it.
	b.before, b.have, b.files, b.session = b.set.Expires, map[string]credential.Credential{}, nil, nil
	b.orphaned = errors.New("gone")
	b.pass(first.Sub(b.now) + time.Minute)
	b.wantFenced(false)
	b.pass(time.Hour)
	b.wantFenced(true)
}

func TestALeaseIsRenewedThoughAnotherCredentialFails(t *testing.T) {
	for name, c := range map[string]struct{ due, refused string }{
		"before it": {"b", "p/a"}, "after it": {"a", "p/b"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			// The other one is to be read at each look.
			other := map[string]string{"a": "b", "b": "a"}[c.due]
			static := b.have[other]
			static.Static, static.Expires = true, time.Time{}
			b.have[other] = static
			b.no[c.refused] = fmt.Errorf("%w: sealed", volume.ErrUnavailable)
			b.pass(3 * time.Hour)
			b.wantFenced(false)
			if !b.set.Expires.After(b.now) || b.state.Credentials[c.due].Expires.Before(b.now) {
				t.Errorf("the end that is written is %s, known is %v, it is %s", b.set.Expires, b.state.Credentials, b.now)
			}
		})
	}
}

func TestATokenThatHasEndedStopsNoRenewal(t *testing.T) {
	b := newBench(t)
	b.token = b.tokenUntil(10 * time.Minute)
	b.pass(5 * time.Hour)
	b.wantFenced(false)
	if b.state.Failing.IsZero() {
		t.Error("nobody says that the token has ended")
	}
	b.renew = false
	b.pass(2 * time.Hour)
	b.wantFenced(true)
}

func TestRefusalsTakeAwayAfterAWhile(t *testing.T) {
	denied := fmt.Errorf("%w: no", volume.ErrDenied)
	login := fmt.Errorf("%w: %w: no", credential.ErrLogin, volume.ErrDenied)
	for _, c := range []struct {
		name   string
		err    error
		keeps  time.Duration // it is kept so long, and emptied a minute later
		always bool
	}{
		{"a read", denied, 20 * time.Second, false},
		{"nothing there", fmt.Errorf("%w: none", volume.ErrPrecondition), 20 * time.Second, false},
		{"a login", login, 80 * time.Second, false},
		{"a bad request", fmt.Errorf("%w: unknown role", volume.ErrInvalid), 10 * time.Minute, true},
		{"the service is away", fmt.Errorf("%w: away", volume.ErrUnavailable), 10 * time.Minute, true},
		{"what came does not fit", fmt.Errorf("%w: %w", volume.ErrPrecondition, errOwn), 10 * time.Minute, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			b.renew = false
			c2 := b.have["a"]
			c2.Static, c2.Expires = true, time.Time{}
			b.have["a"] = c2
			b.no["p/a"] = c.err
			b.pass(c.keeps)
			b.wantFenced(false)
			b.pass(time.Minute)
			b.wantFenced(!c.always)
		})
	}
	t.Run("a login and then a read", func(t *testing.T) {
		b := newBench(t)
		static := b.have["a"]
		static.Static, static.Expires = true, time.Time{}
		b.have["a"] = static
		b.no["p/a"] = login
		b.pass(60 * time.Second)
		b.no["p/a"] = denied
		b.pass(20 * time.Second)
		b.wantFenced(false)
		delete(b.no, "p/a")
		b.pass(time.Minute)
		b.no["p/a"] = login
		b.pass(80 * time.Second)
		b.wantFenced(false)
	})
}

// TestOneRefusedReadMakesNoRefusedLoginCertain: what is refused from then on is the
// login, for as long as it takes the API server to come back.
func TestOneRefusedReadMakesNoRefusedLoginCertain(t *testing.T) {
	b := newBench(t)
	static := b.have["a"]
	static.Static, static.Expires = true, time.Time{}
	b.have["a"] = static
	b.no["p/a"] = fmt.Errorf("%w: no", volume.ErrDenied)
	b.pass(25 * time.Second)
	if b.refusedRead.IsZero() {
		t.Fatal("no read was refused")
	}
	b.no["p/a"] = fmt.Errorf("%w: %w: no", credential.ErrLogin, volume.ErrDenied)
	b.pass(60 * time.Second)
	b.wantFenced(false)
	b.pass(60 * time.Second)
	b.wantFenced(true)
}

func TestWhatDoesNotSayWhenItEndsIsReadAnew(t *testing.T) {
	b := newBench(t)
	for name, c := range b.have {
		c.Expires = time.Time{}
		b.have[name] = c
	}
	b.renew = false
	b.pass(50 * time.Minute)
	if b.reads != 2 {
		t.Errorf("read %d times at once", b.reads)
	}
	b.pass(20 * time.Minute)
	if b.reads != 4 {
		t.Errorf("read %d times after an hour, want 4", b.reads)
	}
}

// TestDamageIsMendedFromMemory: with the service away, and with nothing due.
func TestDamageIsMendedFromMemory(t *testing.T) {
	b := newBench(t)
	for _, path := range []string{"p/a", "p/b"} {
		b.no[path] = fmt.Errorf("%w: away", volume.ErrUnavailable)
	}
	want, end := b.on, b.set.Expires
	b.on = nil
	b.turn(t.Context())
	if !same(b.on, want) || !b.set.Expires.Equal(end) {
		t.Errorf("there are %d files that end at %s, want %d that end at %s", len(b.on), b.set.Expires, len(want), end)
	}
	if b.reads != 2 {
		t.Errorf("%d reads for what was known", b.reads)
	}
	// What was emptied is emptied again.
	b.renew = false
	b.pass(2 * time.Hour)
	b.wantFenced(true)
	b.on = want
	b.turn(t.Context())
	b.wantFenced(true)
}

// TestWhatCannotBeClearedAwayMakesNothingNew has a put that leaves something behind each
// time, as when a pod has made a file that cannot be removed.
func TestWhatCannotBeClearedAwayMakesNothingNew(t *testing.T) {
	b := newBench(t)
	b.left = fmt.Errorf("%w: remove x", payload.ErrLeft)
	b.renew = false
	b.pass(2 * time.Hour)
	b.wantFenced(false)
	// Two of them, at first and each forty minutes or so.
	if b.reads > 2+2*4 || b.state.Credentials["a"].Expires.Before(b.now) {
		t.Errorf("%d reads, known is %v, it is %s", b.reads, b.state.Credentials, b.now)
	}
	if b.state.Failing.IsZero() || len(b.notices) != 1 {
		t.Errorf("failing since %s, notices %q", b.state.Failing, b.notices)
	}
}

func TestWithoutRoomForNewFilesTheOldAreEmptied(t *testing.T) {
	b := newBench(t)
	b.renew = false
	b.full = errors.New("no space left on device")
	b.pass(2 * time.Hour)
	if b.on != nil || !b.state.Fenced {
		t.Errorf("%d files are left, fenced %v", len(b.on), b.state.Fenced)
	}
	b.full = nil
	b.pass(2 * time.Minute)
	b.wantFenced(false)
}
