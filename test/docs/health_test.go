package docs

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-csi/holdfast/pkg/backend/local"
)

func TestConditionsAreDocumented(t *testing.T) {
	document := readFile(t, "docs/reference/health.md")
	for heading, reasons := range map[string][]local.Reason{
		"## Conditions of volumes": local.VolumeConditions(),
		"## Conditions of pools":   local.PoolConditions(),
	} {
		var want, got []string
		for _, r := range reasons {
			want = append(want, string(r))
		}
		for _, row := range rows(t, section(t, document, heading)) {
			got = append(got, row[0])
			if row[2] == "" {
				t.Errorf("%s: how is it found?", row[0])
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: health.md differs from the code (-code +document):\n%s", heading, diff)
		}
	}
}
