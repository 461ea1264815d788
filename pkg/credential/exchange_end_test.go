package credential

import (
	"encoding/base64"
	"fmt"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// jwtWith is a token with these claims, which nobody has signed.
func jwtWith(claims string) string {
	e := base64.RawURLEncoding.EncodeToString
	return e([]byte(`{"alg":"none"}`)) + "." + e([]byte(claims)) + "." + e([]byte("signature"))
}

func TestTheEndOfAnExchangedToken(t *testing.T) {
	now := time.Now().Unix()
	for _, c := range []struct {
		name, token, expiresIn string
		seconds                int
		// life is how long it lives, again how soon it is exchanged anew if that is not
		// known.
		life, again time.Duration
		says        string // of an error
	}{
		{name: "the answer says so", token: "opaque", expiresIn: `,"expires_in":600`, life: 10 * time.Minute},
		{name: "the answer goes before the token", token: jwtWith(fmt.Sprintf(`{"exp":%d}`, now+60)), expiresIn: `,"expires_in":600`, seconds: 90, life: 10 * time.Minute},
		{name: "the token says so", token: jwtWith(fmt.Sprintf(`{"exp":%d}`, now+1200)), seconds: 90, life: 20 * time.Minute},
		{name: "the token says so by a clock that is ahead", token: jwtWith(fmt.Sprintf(`{"iat":%d,"exp":%d}`, now+7200, now+7200+1200)), life: 20 * time.Minute},
		{name: "the token was made before", token: jwtWith(fmt.Sprintf(`{"iat":%d,"exp":%d}`, now-600, now+1200)), life: 20 * time.Minute},
		{name: "the token has a fraction", token: jwtWith(fmt.Sprintf(`{"exp":%d.75}`, now+1200)), life: 20 * time.Minute},
		{name: "the token has ended", token: jwtWith(fmt.Sprintf(`{"exp":%d}`, now-60)), says: "by its exp"},
		{name: "the token ends never", token: jwtWith(`{"exp":253402300799}`), says: "by its exp"},
		{name: "the administrator says so", token: "opaque", seconds: 90, life: 90 * time.Second},
		{name: "nobody says so", token: "opaque", again: unsaidAgain},
		{name: "a token without an end", token: jwtWith(`{"sub":"x"}`), again: unsaidAgain},
		{name: "a token with nonsense", token: jwtWith(`{"exp":"soon"}`), again: unsaidAgain},
		{name: "a token beyond all", token: jwtWith(`{"exp":1e300}`), again: unsaidAgain},
		{name: "a token of another shape", token: "a.b.c", again: unsaidAgain},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := newCloud(t)
			server.answer = func(string) (int, string) { return 200, fmt.Sprintf(`{"access_token":%q%s}`, c.token, c.expiresIn) }
			s := open(t, "oidc", map[string]any{"tokenURL": server.URL, "ca": server.ca(), "audience": "exchange", "seconds": c.seconds})
			defer closeIdle(s)
			got, err := s.Open("").Read(t.Context(), tokenFor(t, "exchange"), Read{})
			if c.says != "" {
				wantErr(t, err, volume.ErrUnavailable, c.says)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if life := got.Life(); life < c.life-5*time.Second || life > c.life+time.Second {
				t.Errorf("it lives for %s, want %s", life, c.life)
			}
			if got.Again != c.again || got.Static {
				t.Errorf("it is exchanged again after %s, want %s; static %v", got.Again, c.again, got.Static)
			}
		})
	}
	for _, seconds := range []int{-1, 29, 86401} {
		_, err := tryOpen("oidc", map[string]any{"tokenURL": "https://x/", "audience": "a", "seconds": seconds})
		wantErr(t, err, volume.ErrInvalid, "30 to 86400")
	}
}
