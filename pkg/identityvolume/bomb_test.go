package identityvolume

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/holdfast-csi/holdfast/pkg/credential"
	"github.com/holdfast-csi/holdfast/pkg/secret"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// TestATemplateCannotFillTheMemory has the ways of a template to make much of little.
func TestATemplateCannotFillTheMemory(t *testing.T) {
	for name, text := range map[string]string{
		"a variable":           `{{$a := "x"}}` + strings.Repeat(`{{$a = "y"}}`, 3),
		"a variable of if":     `{{if $a := "x"}}{{$a}}{{end}}`,
		"a variable of with":   `{{with $a := "x"}}{{$a}}{{end}}`,
		"a variable in else":   `{{if .a.x}}{{else}}{{$a := "x"}}{{end}}`,
		"a variable of else":   `{{if .a.x}}{{else if $a := "x"}}{{$a}}{{end}}`,
		"printf":               `{{printf "%[1]s%[1]s" .a.x}}`,
		"print":                `{{print .a.x .a.x}}`,
		"println":              `{{println .a.x .a.x}}`,
		"js, doubling":         `{{.a.x | js | js}}`,
		"html":                 `{{.a.x | html}}`,
		"urlquery":             `{{.a.x | urlquery}}`,
		"in parentheses":       `{{len (print .a.x .a.x)}}`,
		"in a condition":       `{{if printf "%s" .a.x}}{{end}}`,
		"behind a dot":         `{{(print .a.x).y}}`,
		"call":                 `{{call .a.x}}`,
		"more than the length": strings.Repeat("x", maxTemplate+1),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := parseTemplate("f", text); err == nil || !strings.HasPrefix(err.Error(), "template: ") {
				t.Errorf("got error %v", err)
			}
		})
	}
	for name, text := range map[string]string{
		"json, doubling": `{{len (.a.x` + strings.Repeat(" | json", 60) + `)}}`,
		"base64":         `{{len (.a.x` + strings.Repeat(" | base64", 60) + `)}}`,
		"indent":         `{{len (.a.x` + strings.Repeat(" | indent 64", 2000/12) + `)}}`,
	} {
		t.Run(name, func(t *testing.T) {
			parsed, err := parseTemplate("f", text)
			if err != nil {
				t.Fatal(err)
			}
			f := fileSpec{name: "f", template: parsed}
			_, err = f.render(map[string]credential.Credential{"a": {Fields: map[string]secret.Text{"x": secret.New(strings.Repeat("\"\n", 1000))}}})
			if err == nil || !strings.Contains(err.Error(), "more than 1048576 bytes") {
				t.Errorf("got error %v", err)
			}
		})
	}
	if _, err := parseTemplate("f", `{{with .a}}{{if and .x (not (eq .x "y"))}}{{index $.a "x" | json | indent 2}}{{end}}{{end}}`); err != nil {
		t.Errorf("what is harmless: %v", err)
	}
}

// TestYAMLCannotFillTheMemory reads a text of 2 KiB that decodes to a gigabyte.
func TestYAMLCannotFillTheMemory(t *testing.T) {
	bomb := "a0: &a0 [" + strings.Repeat("x,", 500) + "x]\n"
	for i := 1; i < 6; i++ {
		bomb += fmt.Sprintf("a%d: &a%d [%s*a%d]\n", i, i, strings.Repeat(fmt.Sprintf("*a%d,", i-1), 15), i-1)
	}
	for _, key := range []string{AttributeCredentials, AttributeFiles} {
		attributes := with(passwordOnly(), key, bomb)
		_, err := parseSpec(attributes)
		wantErr(t, err, volume.ErrInvalid, "aliases")
	}
	for _, text := range []string{"x: [*b, &b 1]", "x: &c\n  y: *c", "x: \xff\xfe&\x00a\x00"} {
		if checkYAML(text) == nil {
			t.Errorf("%q is taken", text)
		}
	}
	for _, text := range []string{"x: {template: \"a & b, * c, &d, *e\"}", "# * * * * *", ""} {
		if err := checkYAML(text); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// TestWhatDoesNotFitIsNoRefusal: a field that is not there is not the service's word.
func TestWhatDoesNotFitIsNoRefusal(t *testing.T) {
	s, err := parseSpec(passwordOnly())
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.render(map[string]credential.Credential{"app": {}}, 0)
	wantErr(t, err, volume.ErrPrecondition, "no field")
	if !errors.Is(err, errOwn) {
		t.Errorf("%v passes for a refusal", err)
	}
}
