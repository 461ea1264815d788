package credential

import (
	"net/http"
	"testing"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func TestSourcesAtOneAddressShareTheCircuit(t *testing.T) {
	s := newServer(t)
	sources, err := Parse([]byte(`
sources:
  one:   {vault: {address: "` + s.URL + `", ca: ` + quoted(s.ServerCA()) + `, audience: vault, auth: {method: jwt, role: web}}}
  two:   {vault: {address: "` + s.URL + `", ca: ` + quoted(s.ServerCA()) + `, audience: vault, auth: {method: kubernetes, role: web}}}
  wrong: {vault: {address: "` + s.URL + `", ca: ` + quoted(otherCA(t)) + `, audience: vault, auth: {method: jwt, role: web}}}
  cloud: {oidc: {tokenURL: "` + s.URL + `/token", ca: ` + quoted(s.ServerCA()) + `, audience: vault}}
  far:   {oidc: {tokenURL: "https://127.0.0.1:1/", audience: vault}}
`))
	if err != nil {
		t.Fatal(err)
	}
	find := func(name string) Source {
		t.Helper()
		source, err := sources.Find(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, service := range source.(asker).services() {
			t.Cleanup(service.client.CloseIdleConnections)
		}
		return source
	}
	s.Misbehave(func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	})
	before := len(s.Requests())
	token := tokenFor(t, "vault")
	for range toOpen {
		_, err := find("one").Open("").Read(t.Context(), token, Read{Path: "a/b"})
		wantErr(t, err, volume.ErrUnavailable, "503")
	}
	for _, name := range []string{"two", "cloud"} {
		_, err := find(name).Open("").Read(t.Context(), token, Read{Path: "a/b"})
		wantErr(t, err, volume.ErrUnavailable, "source "+name)
		wantErr(t, err, volume.ErrUnavailable, "has not answered since")
	}
	if n := len(s.Requests()) - before; n != toOpen {
		t.Errorf("asked %d times, want %d", n, toOpen)
	}
	for name, want := range map[string]bool{"one": true, "two": true, "cloud": true, "wrong": false, "far": false} {
		if _, away := find(name).Away(); away != want {
			t.Errorf("%s is away: %v, want %v", name, away, want)
		}
	}
}
