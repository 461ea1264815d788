package docs

import (
	"strings"
	"testing"
)

// What two people changed is one text again.
func TestNothingIsLeftOfAMerge(t *testing.T) {
	for _, suffix := range []string{".md", ".go", ".yaml", ".yml", ".sh", ".json"} {
		for _, path := range files(t, suffix) {
			for line := range strings.Lines(readFile(t, path)) {
				if strings.HasPrefix(line, "<<<<<<"+"< ") || strings.HasPrefix(line, ">>>>>>"+"> ") {
					t.Errorf("%s: %s", path, line)
				}
			}
		}
	}
}
