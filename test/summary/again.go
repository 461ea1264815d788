package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// maxAgain is how many tests of one run are run again. If more fail, it was not
// chance.
const maxAgain = 2

// again are the tests, without their subtests, that failed in one run and may be run
// again. There are none if something failed that is no test: a build, what a package
// does around its tests, a test that never ended.
func again(in io.Reader) ([]key, error) {
	var failures []key
	packages := map[string]bool{}
	running := map[key]bool{}
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadBytes('\n')
		if e, ok := parseEvent(line); ok {
			k := key{e.Package, e.Test}
			switch {
			case e.Action == "run":
				running[k] = true
			case e.Test != "" && (e.Action == "pass" || e.Action == "fail" || e.Action == "skip"):
				delete(running, k)
				if e.Action == "fail" && !strings.Contains(e.Test, "/") {
					failures = append(failures, k)
				}
			case e.Action == "fail" || e.Action == "build-fail":
				packages[e.Package] = true
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read the events: %w", err)
		}
	}
	for _, k := range failures {
		delete(packages, k.Package)
	}
	if len(packages) > 0 || len(running) > 0 || len(failures) > maxAgain {
		return nil, nil
	}
	return failures, nil
}

// runAgain makes what a test says from now on stand over its failure.
func (r *report) runAgain(pkg, test string) {
	top := key{pkg, test}
	r.again = append(r.again, top)
	for k := range r.results {
		if k.Package == pkg && (k.Test == test || strings.HasPrefix(k.Test, test+"/")) {
			delete(r.results, k)
		}
	}
}

// tellAgain names the tests that failed and then passed: each has an error, or the
// code that it tests has.
func (r *report) tellAgain() string {
	var b strings.Builder
	for _, k := range r.again {
		if !slices.ContainsFunc(r.having(failed), func(f key) bool {
			return f.Package == k.Package && (f.Test == k.Test || strings.HasPrefix(f.Test, k.Test+"/"))
		}) {
			fmt.Fprintf(&b, "failed once, and passed when it was run again: %s\n", k)
		}
	}
	return b.String()
}
