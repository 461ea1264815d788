package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const mit = `MIT License

Copyright (c) 2020 Somebody

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
`

// notAllowed is the text by which programs say that they are under the GPL.
const notAllowed = `This program is free software: you can redistribute it and/or modify
it under the terms of the GNU General Public License as published by
the Free Software Foundation, either version 3 of the License, or
(at your option) any later version.

This program is distributed in the hope that it will be useful,
but WITHOUT ANY WARRANTY; without even the implied warranty of
MERCHANTABILITY or FITNESS FOR A PARTICULAR PURPOSE.  See the
GNU General Public License for more details.

You should have received a copy of the GNU General Public License
along with this program.  If not, see <https://www.gnu.org/licenses/>.
`

// newModule is a module of files by their paths, with a package in each directory
// named.
func newModule(t *testing.T, files map[string]string, packages ...string) module {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	m := module{Path: "example.org/module", Version: "v1.0.0", Dir: dir}
	for _, p := range packages {
		m.packages = append(m.packages, filepath.Join(dir, p))
	}
	return m
}

func TestAModuleIsJudgedByAllItsLicences(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		want  string // its licences, or a part of the error
		bad   bool
	}{
		"allowed":                    {files: map[string]string{"LICENSE": mit, "a/a.go": ""}, want: "MIT"},
		"above the package":          {files: map[string]string{"COPYING.txt": mit, "a/a.go": "", "a/NOTICE": "made by somebody"}, want: "MIT"},
		"none":                       {files: map[string]string{"README": mit, "a/a.go": ""}, want: "has no licence file", bad: true},
		"a notice only":              {files: map[string]string{"NOTICE": "made by somebody", "a/a.go": ""}, want: "has no licence file", bad: true},
		"not allowed":                {files: map[string]string{"LICENSE": notAllowed, "a/a.go": ""}, want: "is not one of", bad: true},
		"one of two not allowed":     {files: map[string]string{"LICENSE": mit, "a/LICENSE": notAllowed, "a/a.go": ""}, want: "is not one of", bad: true},
		"what nobody knows":          {files: map[string]string{"LICENSE": "You may use this on Sundays.\n", "a/a.go": ""}, want: "text of a licence that is known", bad: true},
		"beside what is not shipped": {files: map[string]string{"LICENSE": mit, "b/LICENSE": notAllowed, "a/a.go": ""}, want: "MIT"},
	} {
		t.Run(name, func(t *testing.T) {
			m := newModule(t, c.files, "a")
			err := m.read()
			got := m.licences()
			if err != nil {
				got = err.Error()
			}
			if (err != nil) != c.bad || !strings.Contains(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestTheNoticeHasEveryText(t *testing.T) {
	m := newModule(t, map[string]string{"LICENSE": mit, "a/NOTICE": "made by somebody", "a/a.go": ""}, "a")
	if err := m.read(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "NOTICE")
	if err := writeNotice(path, []module{m}); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"example.org/module v1.0.0: MIT\n", strings.TrimSpace(mit), "made by somebody"} {
		if !strings.Contains(string(got), want) {
			t.Errorf("the notice lacks %q", want)
		}
	}
}

// The driver of this tree.
func TestTheLicencesOfTheDriverAreAllowed(t *testing.T) {
	modules, err := compiledInto(t.Context(), "../../cmd/driver")
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for i := range modules {
		if err := modules[i].read(); err != nil {
			t.Error(err)
		}
		paths = append(paths, modules[i].Path)
	}
	for _, want := range []string{standard, "google.golang.org/grpc", "github.com/container-storage-interface/spec"} {
		if !slices.Contains(paths, want) {
			t.Errorf("%s is not among what is in the driver: %v", want, paths)
		}
	}
}
