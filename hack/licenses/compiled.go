package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// module is a module of which something is in the program.
type module struct {
	Path    string
	Version string
	Dir     string
	// packages are the directories of what is compiled.
	packages []string
	texts    []text
}

// standard is what the library of Go is listed as.
const standard = "the Go standard library"

// compiledInto are the modules of all packages that are compiled into a program,
// in order of path, without this one. The standard library counts as one.
func compiledInto(ctx context.Context, program string) ([]module, error) {
	out, err := goCommand(ctx, "list", "-deps", "-json=Dir,Standard,Goroot,Module", program)
	if err != nil {
		return nil, err
	}
	goroot, err := goCommand(ctx, "env", "GOROOT", "GOVERSION")
	if err != nil {
		return nil, err
	}
	root, version, _ := strings.Cut(strings.TrimSpace(string(goroot)), "\n")
	found := map[string]*module{standard: {Path: standard, Version: version, Dir: root, packages: []string{filepath.Join(root, "src")}}}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct {
			Dir      string
			Standard bool
			Module   *struct {
				Path, Version, Dir string
				Main               bool
			}
		}
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("read the list of packages: %w", err)
		}
		if p.Standard || p.Module != nil && p.Module.Main {
			continue
		}
		if p.Module == nil {
			return nil, fmt.Errorf("%s is of no module", p.Dir)
		}
		m := found[p.Module.Path]
		if m == nil {
			m = &module{Path: p.Module.Path, Version: p.Module.Version, Dir: p.Module.Dir}
			found[p.Module.Path] = m
		}
		m.packages = append(m.packages, p.Dir)
	}
	var list []module
	for _, m := range found {
		list = append(list, *m)
	}
	slices.SortFunc(list, func(a, b module) int { return strings.Compare(a.Path, b.Path) })
	return list, nil
}

// licenceFile is how files are called that have a licence, or a notice that goes
// with one.
var licenceFile = regexp.MustCompile(`(?i)^(licen[cs]e|copying|notice|patents|unlicense)([-._].*)?$`)

// files are the licence files from the directories of the packages up to the top of
// the module, each once, in order.
func (m module) files() ([]string, error) {
	looked, found := map[string]bool{}, []string{}
	for _, dir := range m.packages {
		for ; !looked[dir]; dir = filepath.Dir(dir) {
			looked[dir] = true
			entries, err := os.ReadDir(dir)
			if err != nil {
				return nil, err
			}
			for _, e := range entries {
				if e.Type().IsRegular() && licenceFile.MatchString(e.Name()) && filepath.Ext(e.Name()) != ".go" {
					found = append(found, filepath.Join(dir, e.Name()))
				}
			}
			if dir == m.Dir {
				break
			}
		}
	}
	slices.Sort(found)
	return found, nil
}

func goCommand(ctx context.Context, args ...string) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return stdout.Bytes(), nil
}
