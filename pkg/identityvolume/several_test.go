package identityvolume

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/test/fakevault"
)

// TestWhatFailsForItselfHidesNoRevocation: the role of a database is gone, or the
// database is down, and its lease is long; what else the volume has is taken away then.
func TestWhatFailsForItselfHidesNoRevocation(t *testing.T) {
	for name, status := range map[string]int{"the role is gone": http.StatusBadRequest, "the database is down": http.StatusInternalServerError} {
		for other, taken := range map[string]struct{ credential, file, deny string }{
			"what is read each time": {"z: {engine: kv, mount: secret, path: shop}", "z.password", "secret/data/shop"},
			"what is read once":      {"z: {engine: pki, mount: pki, role: web, with: {common_name: web, ttl: 24h}}", "z.private_key", "pki/issue/web"},
		} {
			t.Run(name+", "+other, func(t *testing.T) {
				s := newScene(t)
				s.vault.LeaseTTL, s.vault.LoginTTL = time.Hour, 24*time.Hour
				pod := podNamed("web")
				attributes := map[string]string{
					AttributeSource: "main", AttributeOnExpiry: "fence",
					AttributeCredentials: "a: {engine: database, mount: database, role: app}\n" + taken.credential,
					AttributeFiles:       "login: a.password\nother: " + taken.file,
				}
				s.mustPublish(pod, attributes)
				s.vault.Misbehave(func(w http.ResponseWriter, r *http.Request) bool {
					if !strings.Contains(r.URL.Path, "database/creds") && !strings.Contains(r.URL.Path, "leases/renew") {
						return false
					}
					fakevault.Refuse(w, status, "not this one")
					return true
				})
				// The lease is to be renewed, and has a quarter of its hour left.
				s.ahead.Store(int64(45 * time.Minute))
				s.eventually(pod, attributes, "the database fails", func() bool { return len(s.said(RefreshFailed)) > 0 })
				if s.file(pod, "other") == "" {
					t.Error("what only fails was taken away")
				}
				s.vault.Deny(taken.deny, true)
				s.eventually(pod, attributes, "the files are empty", func() bool { return s.file(pod, "other") == "" && s.file(pod, "login") == "" })
			})
		}
	}
}
