package cluster

import (
	"strings"
	"testing"
)

func TestAPatchFitsInOnePlace(t *testing.T) {
	p := patch{file: "a.go", from: "if x {", to: "if y {"}
	got, err := p.apply([]byte("a\nif x {\n}\n"))
	if err != nil || string(got) != "a\nif y {\n}\n" {
		t.Errorf("%q, %v", got, err)
	}
	for _, text := range []string{"", "if x {\nif x {\n"} {
		if _, err := p.apply([]byte(text)); err == nil || !strings.Contains(err.Error(), "want once") {
			t.Errorf("in %q: %v", text, err)
		}
	}
}

func TestTheBuildOfVaultUsesWhatIsPatched(t *testing.T) {
	text := vault().goMod(goMod{Go: "1.20", Require: []struct{ Path, Version string }{{"github.com/hashicorp/vault/sdk", "v0.9.1"}}})
	for _, want := range []string{
		"require github.com/hashicorp/vault/sdk v0.9.2\n",
		"replace github.com/hashicorp/vault/sdk => ./patched/sdk\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("there is no %q in\n%s", want, text)
		}
	}
}
