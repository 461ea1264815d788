package cluster

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// cut leaves out of one file of a module some imports, some names, and all that uses
// them: entries of tables, branches of if and switch, assignments, else the whole
// function. What is left is the module's own source, and what has been cut too much
// does not compile.
type cut struct {
	file string
	// drop matches the imports that go, but for those that keep matches; nil: none.
	drop, keep *regexp.Regexp
	// names are those of this package, or PACKAGE.NAME.
	names []string
	// whole leaves out the file.
	whole bool
}

// part is a module that a program is built with after some of it was cut out.
type part struct {
	module string
	cuts   []cut
}

// dir is where the part is, from the module that it is built in.
func (p part) dir() string { return "./parts/" + path.Base(p.module) }

// copyParts copies the parts of s below the directory of the module that builds it, in
// the versions that s requires.
func (s source) copyParts(ctx context.Context, theirs goMod, work string) error {
	versions := map[string]string{s.module: s.version}
	for _, r := range theirs.Require {
		versions[r.Path] = r.Version
	}
	for _, p := range s.parts {
		to := filepath.Join(work, p.dir())
		if err := errors.Join(os.RemoveAll(to), os.MkdirAll(to, 0o755)); err != nil {
			return err
		}
		if err := copyPart(ctx, p, versions[p.module], to); err != nil {
			return fmt.Errorf("copy %s: %w", p.module, err)
		}
	}
	return nil
}

// copyPart copies the source of a module to a directory, cut and without its tests.
func copyPart(ctx context.Context, p part, version, to string) error {
	got, err := source{module: p.module, version: version}.download(ctx, to)
	if err != nil {
		return err
	}
	top, err := os.OpenRoot(to)
	if err != nil {
		return err
	}
	defer top.Close()
	err = fs.WalkDir(os.DirFS(got.Dir), ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || strings.HasSuffix(name, "_test.go") || !strings.HasSuffix(name, ".go") && name != "go.mod" {
			return err
		}
		text, err := os.ReadFile(filepath.Join(got.Dir, name))
		if err != nil {
			return err
		}
		if i := slices.IndexFunc(p.cuts, func(c cut) bool { return c.file == name }); i >= 0 {
			if p.cuts[i].whole {
				return nil
			}
			if text, err = p.cuts[i].apply(text); err != nil {
				return fmt.Errorf("%s of %s: %w", name, p.module, err)
			}
		}
		return errors.Join(top.MkdirAll(path.Dir(name), 0o755), top.WriteFile(name, text, 0o644))
	})
	if err != nil {
		return err
	}
	// A module of before there were modules has none.
	if _, err := top.Stat("go.mod"); errors.Is(err, fs.ErrNotExist) {
		return top.WriteFile("go.mod", []byte("module "+p.module+"\n"), 0o644)
	}
	return nil
}

// apply cuts until nothing is left that uses what is gone: what a function is dropped
// for takes the calls of that function along.
func (c cut) apply(text []byte) ([]byte, error) {
	gone := map[string]bool{}
	for _, name := range c.names {
		gone[name] = true
	}
	before, err := parse(text)
	if err != nil {
		return nil, err
	}
	used := usedPackages(before.file)
	for {
		f, err := parse(text)
		if err != nil {
			return nil, err
		}
		imports := map[string]bool{}
		for _, spec := range f.file.Imports {
			if c.drops(spec) {
				imports[localName(spec)] = true
			}
		}
		ranges := f.uses(gone, imports)
		if len(ranges) == 0 {
			now := usedPackages(f.file)
			for _, spec := range f.file.Imports {
				if name := localName(spec); c.drops(spec) || used[name] && !now[name] {
					ranges = append(ranges, f.around(spec))
				}
			}
			return remove(text, ranges), nil
		}
		text = remove(text, ranges)
	}
}

func (c cut) drops(spec *ast.ImportSpec) bool {
	name := strings.Trim(spec.Path.Value, `"`)
	return c.drop != nil && c.drop.MatchString(name) && (c.keep == nil || !c.keep.MatchString(name))
}

// localName is what a file calls a package that it imports, as far as the import tells.
func localName(spec *ast.ImportSpec) string {
	if spec.Name != nil {
		return spec.Name.Name
	}
	name := strings.Trim(spec.Path.Value, `"`)
	base := path.Base(name)
	if len(base) > 1 && base[0] == 'v' && strings.Trim(base[1:], "0123456789") == "" {
		base = path.Base(path.Dir(name))
	}
	return base
}

// parsed is a file and where things are in its text.
type parsed struct {
	set  *token.FileSet
	file *ast.File
}

func parse(text []byte) (parsed, error) {
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, "", text, parser.ParseComments|parser.SkipObjectResolution)
	return parsed{set, file}, err
}

func usedPackages(file *ast.File) map[string]bool {
	used := map[string]bool{}
	ast.Inspect(file, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := s.X.(*ast.Ident); ok {
				used[x.Name] = true
			}
		}
		return true
	})
	return used
}

// span is a part of a text, in bytes.
type span struct{ from, to int }

func (p parsed) around(n ast.Node) span {
	return span{p.set.Position(n.Pos()).Offset, p.set.Position(n.End()).Offset}
}

// uses are the parts of the file that use what is gone. Functions and variables that go
// because of that are gone too.
func (p parsed) uses(gone, imports map[string]bool) []span {
	var found []span
	var stack []ast.Node
	ast.Inspect(p.file, func(n ast.Node) bool {
		if n == nil {
			stack = stack[:len(stack)-1]
			return true
		}
		stack = append(stack, n)
		id, ok := n.(*ast.Ident)
		if !ok {
			return true
		}
		above := stack[len(stack)-2]
		selector, selects := above.(*ast.SelectorExpr)
		name := id.Name
		if selects && selector.Sel == id {
			if x, ok := selector.X.(*ast.Ident); ok {
				name = x.Name + "." + name
			} else {
				name = ""
			}
		}
		if gone[name] || selects && selector.X == id && imports[name] {
			what := droppable(stack)
			found = append(found, p.around(what))
			for _, name := range declared(what) {
				gone[name] = true
			}
		}
		return true
	})
	return found
}

// droppable is the smallest node around the last that can go by itself.
func droppable(stack []ast.Node) ast.Node {
	for i := len(stack) - 1; i > 0; i-- {
		switch n := stack[i].(type) {
		case *ast.KeyValueExpr:
			if _, ok := stack[i-1].(*ast.CompositeLit); ok {
				return n
			}
		case *ast.CaseClause:
			return n
		case *ast.IfStmt:
			if _, ok := stack[i-1].(*ast.IfStmt); !ok {
				return n
			}
		}
	}
	for i := len(stack) - 1; i > 0; i-- {
		if n, ok := stack[i].(*ast.AssignStmt); ok && n.Tok == token.ASSIGN {
			return n
		}
	}
	return stack[1] // a declaration
}

func declared(n ast.Node) []string {
	var names []string
	switch n := n.(type) {
	case *ast.FuncDecl:
		if n.Recv == nil {
			names = append(names, n.Name.Name)
		}
	case *ast.GenDecl:
		for _, spec := range n.Specs {
			if v, ok := spec.(*ast.ValueSpec); ok {
				for _, name := range v.Names {
					names = append(names, name.Name)
				}
			}
		}
	}
	return names
}

// remove takes parts out of a text, and the comma after each.
func remove(text []byte, parts []span) []byte {
	slices.SortFunc(parts, func(a, b span) int { return a.from - b.from })
	var out []byte
	at := 0
	for _, s := range parts {
		if s.to <= at {
			continue // inside the one before
		}
		out = append(out, text[at:max(at, s.from)]...)
		at = s.to
		if at < len(text) && text[at] == ',' {
			at++
		}
	}
	return append(out, text[at:]...)
}
