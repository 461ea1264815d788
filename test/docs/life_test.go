package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// functionsOf are the functions and methods of each package of the driver, as
// "package.Function", and its exported types' names.
func functionsOf(t *testing.T) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	for _, file := range files(t, ".go") {
		if !strings.Contains(file, "pkg/") || strings.HasSuffix(file, "_test.go") {
			continue
		}
		tree, err := parser.ParseFile(token.NewFileSet(), filepath.Join(repository, file), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range tree.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				found[tree.Name.Name+"."+d.Name.Name] = true
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					if named, ok := spec.(*ast.TypeSpec); ok {
						found[tree.Name.Name+"."+named.Name.Name] = true
					}
				}
			}
		}
	}
	return found
}

func TestLifeOfAPVCNamesFunctionsThatExist(t *testing.T) {
	text := section(t, readFile(t, "ARCHITECTURE.md"), "## The life of a PVC")
	exists := functionsOf(t)
	named := regexp.MustCompile("`([a-z]+\\.[A-Za-z]+)`").FindAllStringSubmatch(text, -1)
	if len(named) < 30 {
		t.Fatalf("the section names %d functions; it is to name each that a claim passes through", len(named))
	}
	for _, m := range named {
		if !exists[m[1]] {
			t.Errorf("ARCHITECTURE.md speaks of %s, which does not exist", m[1])
		}
	}
}
