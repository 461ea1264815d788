package docs

import (
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-csi/holdfast/pkg/backend/local"
	"github.com/holdfast-csi/holdfast/pkg/intake"
)

// What driver pool prints as JSON is what docs/reference/pool.md says.
func TestPoolFieldsAreDocumented(t *testing.T) {
	document := readFile(t, "docs/reference/pool.md")
	for heading, printed := range map[string]any{
		"## Pools":    local.PoolStatus{},
		"## Use":      local.SpaceUse{},
		"## Objects":  local.ObjectStatus{},
		"## Checks":   local.PoolCheck{},
		"## Findings": local.Finding{},
		"## Imports":  intake.Result{},
	} {
		var want, got []string
		for f := range fields(reflect.TypeOf(printed)) {
			want = append(want, f)
		}
		for _, row := range rows(t, section(t, document, heading)) {
			for name := range strings.SplitSeq(row[0], ",") {
				got = append(got, strings.TrimSpace(name))
			}
			if row[1] == "" {
				t.Errorf("%s: %s has no meaning", heading, row[0])
			}
		}
		if diff := cmp.Diff(sorted(want), sorted(got)); diff != "" {
			t.Errorf("%s: pool.md differs from the code (-code +document):\n%s", heading, diff)
		}
	}
}

// fields are the names that the fields of a struct have in JSON.
func fields(t reflect.Type) map[string]bool {
	out := map[string]bool{}
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		out[name] = true
	}
	return out
}
