package sanity

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/ginkgo/v2/types"
)

// minPassed is how many specs pass for each kind of volume. It only ever grows.
const minPassed = 71

// specs are the specs of one kind of volume, by how they ended.
type specs map[types.SpecState][]string

// checkReport demands that every spec passed for a kind of volume, but for those
// of the lists, and that the volumes really were of that kind.
func checkReport(t *testing.T, k *kind, report ginkgo.Report) {
	t.Helper()
	var expected []string
	for _, texts := range skips() {
		expected = append(expected, texts...)
	}
	slices.Sort(expected)
	found := ofKind(k, report)
	t.Logf("%s: %s; %d publications", k.name, found, k.published.Load())
	if diff := cmp.Diff(expected, found[types.SpecStateSkipped]); diff != "" {
		t.Errorf("%s: the specs that skipped are not those of the list (-list +skipped):\n%s", k.name, diff)
	}
	if diff := cmp.Diff(switchedOff(), found[types.SpecStatePending]); diff != "" {
		t.Errorf("%s: the specs that csi-sanity has switched off are others (-list +found):\n%s", k.name, diff)
	}
	if n := len(found[types.SpecStatePassed]); n < minPassed {
		t.Errorf("%s: %d specs passed, there were %d", k.name, n, minPassed)
	}
	if k.published.Load() == 0 {
		t.Errorf("%s: no volume of this kind was ever published", k.name)
	}
}

// ofKind are the specs in the outermost container that is named for a kind.
func ofKind(k *kind, report ginkgo.Report) specs {
	found := specs{}
	for _, s := range report.SpecReports.WithLeafNodeType(types.NodeTypeIt) {
		if text, ok := strings.CutPrefix(s.FullText(), k.name+" "); ok {
			found[s.State] = append(found[s.State], text)
		}
	}
	for _, texts := range found {
		slices.Sort(texts)
	}
	return found
}

func (s specs) String() string {
	return fmt.Sprintf("%d passed, %d failed, %d skipped, %d switched off by csi-sanity", len(s[types.SpecStatePassed]),
		len(s[types.SpecStateFailed]), len(s[types.SpecStateSkipped]), len(s[types.SpecStatePending]))
}
