package identityvolume

import (
	"strings"
	"testing"

	"github.com/holdfast-csi/holdfast/pkg/credential"
	"github.com/holdfast-csi/holdfast/pkg/secret"
)

// TestTheErrorOfATemplateShowsNoValue has values of which one is the beginning of the
// other, short ones, and one that could pass for the text of an error.
func TestTheErrorOfATemplateShowsNoValue(t *testing.T) {
	values := map[string]string{
		"env": "pro", "password": "pro-4711", "pin": "7q", "type": "rsa", "odd": `x" at <.app>: error calling zebra: `,
	}
	fields := map[string]secret.Text{}
	for name, value := range values {
		fields[name] = secret.New(value)
	}
	for text, says := range map[string]string{
		`{{ if eq .app .app }}x{{ end }}`:                      "line 1, column 6: eq: it cannot be done",
		`{{ eq .app.env .app }}`:                               "column 3: eq",
		`{{ lt .app .app }}`:                                   "column 3: lt",
		`{{ .app.nothing }}`:                                   "line 1, column 7: .app.nothing: it is not there",
		"a\n  {{ .app.password.more }}":                        "line 2, column 9: .app.password.more",
		`{{ with .app }}{{ .nothing }}{{ end }}`:               ".nothing: it is not there",
		`{{ $.other.x }}`:                                      ".other.x: it is not there",
		`{{ index .app "passwrod" }}`:                          "index: there is no credential or field",
		`{{ index .app .app.password }}`:                       "index: there is no credential or field",
		`{{ index .app.password "x" }}`:                        "index: index looks for the name",
		`{{ index .app.password 99 }}`:                         "it cannot be done",
		`{{ index . .app.odd }}`:                               "index: there is no credential or field",
		`{{ slice .app.password 99 }}`:                         "slice: it cannot be done",
		`{{ slice .app.password .app.pin }}`:                   "it cannot be done",
		`{{ len 3 }}`:                                          "len: it cannot be done",
		`{{ json .app }}`:                                      ".app: it is not there, or not what is wanted here",
		`{{ indent 99 .app.password }}`:                        "indent: indent by 0 to 64",
		`{{ indent .app.password .app.password }}`:             ".app.password: it is not there, or not what is wanted here",
		`{{ .app.password .app.odd }}`:                         "it is not there",
		`{{ .app.odd | index .app }}`:                          "index: there is no",
		`{{ not .app.nothing }}{{ .app.password }}`:            ".app.nothing",
		`{{ if .app.password }}{{ else }}{{ end }}{{ .x.y }}`:  ".x.y",
		`{{ (index .app "password").more }}`:                   "it cannot be done",
		`{{ json (slice .app.password 0 "x") }}{{ .app.pin }}`: "it cannot be done",
	} {
		parsed, err := parseTemplate("f", text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		_, err = fileSpec{name: "f", template: parsed}.render(map[string]credential.Credential{"app": {Fields: fields}})
		if err == nil || !strings.HasPrefix(err.Error(), "template: ") || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: got error %v, want one with %q", text, err, says)
			continue
		}
		for name, value := range values {
			for _, rest := range []string{value, strings.TrimPrefix(value, "pro-"), "zebra"} {
				if name != "env" && name != "type" && strings.Contains(err.Error(), rest) {
					t.Errorf("%s: field %s shows: %v", text, name, err)
				}
			}
		}
		// No word of the template or of ours has these.
		if strings.Contains(err.Error(), "rsa") || strings.Contains(err.Error(), "pro") {
			t.Errorf("%s: a short value shows: %v", text, err)
		}
	}
}

func TestIndexFindsWhatHasNoNameForADot(t *testing.T) {
	parsed, err := parseTemplate("f", `{{ index .app "tls.key" }}{{ index . "app" "tls.key" | json }}`)
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]credential.Credential{"app": {Fields: map[string]secret.Text{"tls.key": secret.New("k")}}}
	if got, err := (fileSpec{name: "f", template: parsed}).render(have); err != nil || got.Reveal() != `k"k"` {
		t.Errorf("it makes %q, %v", got.Reveal(), err)
	}
}
