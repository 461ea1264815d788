package docs

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-csi/holdfast/pkg/backend/local"
	"github.com/holdfast-csi/holdfast/pkg/cluster"
	"github.com/holdfast-csi/holdfast/pkg/identityvolume"
)

func TestEventsAreDocumented(t *testing.T) {
	kinds := map[bool]string{true: "Warning", false: "Normal"}
	want := map[string]string{}
	for _, r := range local.Reasons() {
		want[string(r)] = kinds[r.Warning()]
	}
	for _, r := range cluster.Reasons() {
		want[string(r)] = "Warning"
	}
	for _, r := range identityvolume.Reasons() {
		want[string(r)] = kinds[r.Warning()]
	}
	got := map[string]string{}
	for _, row := range rows(t, readFile(t, "docs/reference/events.md")) {
		got[row[0]] = row[1]
		if row[2] == "" || row[3] == "" {
			t.Errorf("%s: what happened, and what is to be done?", row[0])
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("events.md differs from the code (-code +document):\n%s", diff)
	}
}
