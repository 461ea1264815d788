package docs

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// files are the paths in the tree, from its top, that end so. What is built or
// belongs to git is not in it.
func files(t *testing.T, suffix string) []string {
	t.Helper()
	var found []string
	err := fs.WalkDir(os.DirFS(repository), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (path == ".git" || path == "bin" || path == "dist" || d.Name() == "testdata") {
			return fs.SkipDir
		}
		if !d.IsDir() && strings.HasSuffix(path, suffix) {
			found = append(found, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// sentenceEnd is a full stop, or another end, that something follows or nothing.
var sentenceEnd = regexp.MustCompile(`[.!?](\s|$)`)

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	comments := map[string]string{}
	for _, path := range files(t, ".go") {
		file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(repository, path), nil, parser.ParseComments|parser.PackageClauseOnly)
		if err != nil {
			t.Error(err)
			continue
		}
		comments[filepath.Dir(path)] += file.Doc.Text()
	}
	if len(comments) == 0 {
		t.Fatal("there is no package")
	}
	for dir, text := range comments {
		if n := len(sentenceEnd.FindAllString(text, -1)); n < 2 {
			t.Errorf("%s: the package comment has %d sentences: it must say what the package is for, what it promises and what it refuses to do", dir, n)
		}
	}
}

// link matches the target of [text](target) in a document.
var link = regexp.MustCompile(`\]\(([^)\s]+)\)`)

func TestLinksLeadSomewhere(t *testing.T) {
	for _, path := range files(t, ".md") {
		document := withoutCode(readFile(t, path))
		for _, m := range link.FindAllStringSubmatch(document, -1) {
			target, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
				continue
			}
			to := path
			if target != "" {
				to = filepath.Join(filepath.Dir(path), target)
			}
			if _, err := os.Stat(filepath.Join(repository, to)); err != nil {
				t.Errorf("%s links to %s: %v", path, m[1], err)
				continue
			}
			if anchor != "" && strings.HasSuffix(to, ".md") && !slices.Contains(anchors(readFile(t, to)), anchor) {
				t.Errorf("%s links to %s, and %s has no such heading", path, m[1], to)
			}
		}
	}
}

// withoutCode leaves out blocks of code, where brackets mean something else.
func withoutCode(document string) string {
	var text strings.Builder
	fenced := false
	for line := range strings.Lines(document) {
		if strings.HasPrefix(strings.TrimSpace(line), "```") {
			fenced = !fenced
			continue
		}
		if !fenced && !strings.HasPrefix(line, "    ") {
			text.WriteString(line)
		}
	}
	return text.String()
}

var notInAnchor = regexp.MustCompile(`[^\p{L}\p{N}\- _]`)

// anchors are the anchors that GitHub gives the headings of a document.
func anchors(document string) []string {
	var found []string
	for line := range strings.Lines(withoutCode(document)) {
		if !strings.HasPrefix(line, "#") {
			continue
		}
		heading := strings.ToLower(strings.TrimSpace(strings.TrimLeft(line, "#")))
		found = append(found, strings.ReplaceAll(notInAnchor.ReplaceAllString(heading, ""), " ", "-"))
	}
	return found
}
