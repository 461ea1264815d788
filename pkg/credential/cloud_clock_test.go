package credential

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// TestWhatACloudGivesEndsByTheClockOfThisNode: it says when in its own time.
func TestWhatACloudGivesEndsByTheClockOfThisNode(t *testing.T) {
	for request, life := range map[string]time.Duration{ofAWS: 15 * time.Minute, ofImpersonation: time.Hour} {
		for _, ahead := range []time.Duration{0, 4 * time.Minute, 10 * time.Minute, 24 * time.Hour} {
			t.Run(fmt.Sprint(request, " ahead by ", ahead), func(t *testing.T) {
				server := newFaultyCloud(t, request, func(w http.ResponseWriter, _ *http.Request) {
					end := time.Now().Add(ahead + life).UTC().Format(time.RFC3339)
					if request == ofAWS {
						_, _ = fmt.Fprintf(w, awsAnswer, end)
						return
					}
					_, _ = fmt.Fprintf(w, `{"accessToken":"x","expireTime":%q}`, end)
				})
				s, role := cloudAt(t, request, server.URL, server.ca())
				if a, ok := s.(*aws); ok {
					a.cfg.Seconds = int(life / time.Second)
				}
				got, err := s.Open(role).Read(t.Context(), tokenFor(t, s.Audience()), Read{})
				if err != nil {
					t.Fatal(err)
				}
				if left := time.Until(got.Expires); left > life || left < life-time.Minute || got.Life() > life {
					t.Errorf("it ends in %s, and lives for %s in all; it was given %s", left, got.Life(), life)
				}
			})
		}
		// A clock that is behind this node's: the end comes too early, which harms nobody,
		// or has come already, which is said.
		t.Run(request+" behind", func(t *testing.T) {
			server := newFaultyCloud(t, request, func(w http.ResponseWriter, _ *http.Request) {
				end := time.Now().Add(-time.Minute).UTC().Format(time.RFC3339)
				if request == ofAWS {
					_, _ = fmt.Fprintf(w, awsAnswer, end)
					return
				}
				_, _ = fmt.Fprintf(w, `{"accessToken":"x","expireTime":%q}`, end)
			})
			s, role := cloudAt(t, request, server.URL, server.ca())
			_, err := s.Open(role).Read(t.Context(), tokenFor(t, s.Audience()), Read{})
			wantErr(t, err, volume.ErrUnavailable, "by the clock of this node")
		})
	}
}
