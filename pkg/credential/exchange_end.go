package credential

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/secret"
)

// unsaidAgain is how often a token is exchanged anew of which nobody says when it ends.
// It is half of the shortest life that an API server gives the pod's token (10 minutes,
// TokenRequestSpec.expirationSeconds), so what was exchanged is never older than that.
const unsaidAgain = 5 * time.Minute

// endOfAnswer is when the token in an answer ends; zero if nobody says. The answer says
// so in expires_in, which RFC 8693 (section 2.2.1) only recommends; else the token
// does, if it can be read; else the administrator. An error says what makes no sense.
func (e *exchange) endOfAnswer(fields map[string]secret.Text, begin time.Time) (time.Time, error) {
	if text := fields["expires_in"].Reveal(); text != "" {
		seconds, err := json.Number(text).Int64()
		if err != nil || seconds <= 0 || seconds > int64(maxLife/time.Second) {
			return time.Time{}, errors.New("expires_in in its answer is no number of seconds")
		}
		return begin.Add(time.Duration(seconds) * time.Second), nil
	}
	if end, ok := endOfJWT(fields["access_token"].Reveal(), begin); ok {
		if !end.After(begin) || end.Sub(begin) > maxLife {
			return time.Time{}, errors.New("the token in its answer is not valid now, by its exp")
		}
		return end, nil
	}
	if e.unsaid > 0 {
		return begin.Add(e.unsaid), nil
	}
	return time.Time{}, nil
}

// endOfJWT is the end of a token by its own claims, by the clock of begin: if that is
// behind the issuer's, then before it shows exp. ok is false for a token that is no JWT
// (RFC 7519), or does not say. Nothing is verified: it decides only when the service is
// asked again, and when the token passes for ended.
func endOfJWT(token string, begin time.Time) (end time.Time, ok bool) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return time.Time{}, false
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(parts[1], "="))
	if err != nil {
		return time.Time{}, false
	}
	var claims struct {
		Expires float64 `json:"exp"`
		Issued  float64 `json:"iat"`
	}
	if json.Unmarshal(payload, &claims) != nil || claims.Expires <= 0 || claims.Expires > maxEpoch {
		return time.Time{}, false
	}
	end = time.Unix(int64(claims.Expires), 0)
	life := claims.Expires - claims.Issued
	if claims.Issued <= 0 || life <= 0 || life > maxLife.Seconds() {
		return end, true
	}
	if own := begin.Add(time.Duration(life) * time.Second); own.Before(end) {
		return own, true
	}
	return end, true
}

// maxEpoch is the last second that is believed, of the year 9999.
const maxEpoch = 253402300799
