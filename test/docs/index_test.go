package docs

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// linksOf are the files of the tree that a document links to, from the top.
func linksOf(t *testing.T, path string) []string {
	t.Helper()
	var found []string
	for _, m := range link.FindAllStringSubmatch(withoutCode(readFile(t, path)), -1) {
		target, _, _ := strings.Cut(m[1], "#")
		if target != "" && !strings.Contains(target, "://") {
			found = append(found, filepath.Join(filepath.Dir(path), target))
		}
	}
	return found
}

// A reader comes from README.md or docs/README.md, and must see from there what
// there is to read.
func TestEveryDocumentIsInTheIndex(t *testing.T) {
	index := append(linksOf(t, "README.md"), linksOf(t, "docs/README.md")...)
	pages := 0
	for _, path := range files(t, ".md") {
		switch dir := filepath.ToSlash(filepath.Dir(path)); {
		case dir == "docs/guides", dir == "docs/reference", dir == "docs/explanation", dir == "docs/releases":
			pages++
		case dir == "." && path != "README.md":
		default:
			continue
		}
		if !slices.Contains(index, path) {
			t.Errorf("neither README.md nor docs/README.md links to %s", path)
		}
	}
	if pages < 20 {
		t.Errorf("there are %d pages in docs; this test looks in the wrong place", pages)
	}
	if !slices.Contains(linksOf(t, "README.md"), "docs/README.md") {
		t.Error("README.md does not link to docs/README.md")
	}
}

// Decisions are found from the pages that rest on them.
func TestEveryDecisionHasANumberOfItsOwn(t *testing.T) {
	seen := map[string]string{}
	for _, path := range files(t, ".md") {
		if filepath.ToSlash(filepath.Dir(path)) != "docs/adr" {
			continue
		}
		number, _, _ := strings.Cut(filepath.Base(path), "-")
		if other, twice := seen[number]; twice {
			t.Errorf("%s and %s have the same number", path, other)
		}
		seen[number] = path
		if want := "# " + strings.TrimLeft(number, "0") + ". "; !strings.HasPrefix(readFile(t, path), want) {
			t.Errorf("%s does not begin with %q", path, want)
		}
	}
	if len(seen) == 0 {
		t.Fatal("there are no decisions")
	}
}
