package cluster

import (
	"go/format"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const uncut = `package table

import (
	"context"
	"fmt"
	other "example.org/big/cloud"
	"example.org/big/disk/v2"
	"example.org/small"
)

var all = map[string]any{
	"cloud": other.New, // of others
	"small": small.New,
	"start": func() any {
		return &Agent{}
	},
	"nothing": nil,
	"best":    small.Best,
}

func open(kind string) (any, error) {
	all["later"] = other.New
	if kind == "" {
		return small.New(), nil
	}
	if kind == "other" {
		return other.Open(), nil
	}
	switch kind {
	case "disk":
		return openDisk(context.Background())
	case "small":
		return small.New(), nil
	}
	return nil, fmt.Errorf("no %s", kind)
}

func openDisk(ctx context.Context) (any, error) {
	d := disk.New(ctx)
	return d, nil
}

var OpenDisk = openDisk
`

const afterCut = `package table

import (
	"fmt"

	"example.org/small"
)

var all = map[string]any{
	"small": small.New,
	"nothing": nil,
}

func open(kind string) (any, error) {
	if kind == "" {
		return small.New(), nil
	}
	switch kind {
	case "small":
		return small.New(), nil
	}
	return nil, fmt.Errorf("no %s", kind)
}
`

// What uses something that is left out goes with it: rows, branches, functions, and
// imports that nobody needs any more.
func TestACutTakesItsUsersAlong(t *testing.T) {
	got, err := cut{drop: regexp.MustCompile(`/big/`), names: []string{"Agent", "small.Best"}}.apply([]byte(uncut))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(tidy(t, afterCut), tidy(t, string(got))); diff != "" {
		t.Error(diff)
	}
	kept, err := cut{drop: regexp.MustCompile(`example.org`), keep: regexp.MustCompile(`example.org`)}.apply([]byte(uncut))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(uncut, string(kept)); diff != "" {
		t.Error(diff)
	}
}

// tidy is a text without its comments and blank lines, formatted.
func tidy(t *testing.T, text string) string {
	t.Helper()
	formatted, err := format.Source([]byte(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	var lines []string
	for line := range strings.Lines(string(formatted)) {
		line, _, _ = strings.Cut(line, "//")
		if line = strings.Join(strings.Fields(line), " "); line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n")
}

func TestTheBuildOfVaultUsesItsCutParts(t *testing.T) {
	text := vault().goMod(goMod{Go: "1.20", Require: []struct{ Path, Version string }{{"github.com/hashicorp/vault/sdk", "v0.9.1"}}})
	for _, want := range []string{
		"require github.com/hashicorp/vault/sdk v0.9.2\n",
		"replace github.com/hashicorp/vault => ./parts/vault\n",
		"replace github.com/hashicorp/go-discover => ./parts/go-discover\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("there is no %q in\n%s", want, text)
		}
	}
}
