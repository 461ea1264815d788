package fakevault_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/holdfast-csi/holdfast/test/fakevault"
)

// TestALoginThatTakesLongHoldsUpNobody has Verify ask the server, as one does that
// counts requests.
func TestALoginThatTakesLongHoldsUpNobody(t *testing.T) {
	s := fakevault.New(true)
	t.Cleanup(s.Close)
	asked := 0
	s.Verify = func(string, string) string {
		asked = s.Count("/login")
		s.Put("secret/data/x", map[string]any{"a": "b"})
		return "not today"
	}
	resp, err := http.Post(s.URL+"/v1/auth/kubernetes/login", "application/json", strings.NewReader(`{"role":"a","jwt":"b"}`))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusForbidden || asked != 1 {
		t.Errorf("the answer is %s, the server was asked %d times", resp.Status, asked)
	}
}
