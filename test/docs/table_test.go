package docs

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// repository is the top of the tree, seen from this package.
const repository = "../.."

func readFile(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(repository, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// section is the part of a document below a heading, down to the next heading of
// the same level or above.
func section(t *testing.T, document, heading string) string {
	t.Helper()
	level := heading[:strings.IndexByte(heading, ' ')]
	var text strings.Builder
	inside := false
	for line := range strings.Lines(document) {
		switch words := strings.TrimSpace(line); {
		case words == heading:
			inside = true
		case inside && strings.HasPrefix(words, "#") && len(words)-len(strings.TrimLeft(words, "#")) <= len(level):
			return text.String()
		case inside:
			text.WriteString(line)
		}
	}
	if !inside {
		t.Fatalf("there is no heading %q", heading)
	}
	return text.String()
}

// rows are the cells of the one table in a text, without its head; a cell has no
// backquotes any more. A row that other text parts from the table is shown to readers as
// text, so it fails the test.
func rows(t *testing.T, text string) [][]string {
	t.Helper()
	var found [][]string
	ended := false
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "|") {
			ended = len(found) > 0
			continue
		}
		if ended {
			t.Fatalf("this row is not in the table above it:\n%s", line)
		}
		var cells []string
		for cell := range strings.SplitSeq(strings.Trim(line, "|"), "|") {
			cells = append(cells, strings.TrimSpace(strings.ReplaceAll(cell, "`", "")))
		}
		found = append(found, cells)
	}
	if len(found) < 3 {
		t.Fatalf("there is no table in:\n%s", text)
	}
	return found[2:]
}

// sorted is a list of words in order, to be compared.
func sorted(words []string) string {
	slices.Sort(words)
	return strings.Join(words, ", ")
}
