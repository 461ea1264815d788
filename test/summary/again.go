package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"
)

// maxAgain is how many tests of one run are run again. If more fail, it was not
// chance.
const maxAgain = 2

// again are the tests, without their subtests, that failed in one run and may be run
// again. There are none if anything else failed: a build, a test that panicked, what a
// package does around its tests, such as looking for leaks. Nor if there was a data
// race: that is never chance.
func again(in io.Reader) ([]key, error) {
	var failures []key
	ended := map[string]bool{} // packages whose tests came to their end
	more := map[string]bool{}  // packages that said something after it
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadBytes('\n')
		if e, ok := parseEvent(line); ok {
			switch {
			case strings.Contains(e.Output, "WARNING: DATA RACE"), e.Action == "build-fail":
				return nil, nil
			case e.Action == "fail" && e.Test == "" && (!ended[e.Package] || more[e.Package]):
				return nil, nil
			case e.Action == "fail" && e.Test == "":
			case e.Action == "fail" && !strings.Contains(e.Test, "/"):
				failures = append(failures, key{e.Package, e.Test})
			case e.Action != "output" || e.Test != "":
			case e.Output == "FAIL\n" || e.Output == "PASS\n": // testing's last word
				ended[e.Package] = true
			case ended[e.Package] && !strings.HasPrefix(e.Output, "FAIL\t") && !strings.HasPrefix(e.Output, "exit status "):
				more[e.Package] = true
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read the events: %w", err)
		}
	}
	if len(failures) > maxAgain {
		return nil, nil
	}
	return failures, nil
}

// startAgain begins a run of one test that failed in the run before.
func (r *report) startAgain(pkg, test string) {
	r.startRun("again: " + shortPackage(pkg) + " " + test)
	r.rerun, r.rerunPassed = &key{pkg, test}, false
}

// endAgain takes back the failure of a test that passed when it was run again, but not
// one of an earlier run, of other tests or of the same ones.
func (r *report) endAgain(status string) {
	top := *r.rerun
	r.rerun = nil
	if status != "0" || !r.rerunPassed {
		if r.runFailed == 0 {
			r.fail(key{r.run, ""}, "it did not pass, and the go command ended with status "+status+"\n")
		}
		return
	}
	for k, o := range r.results {
		if o == failed && k.isPartOf(top) && r.earlier[k] != failed {
			r.results[k] = passed
		}
	}
	r.again = append(r.again, top)
}

func (k key) isPartOf(top key) bool {
	return k.Package == top.Package && (k.Test == top.Test || strings.HasPrefix(k.Test, top.Test+"/"))
}

// keepEarlier remembers how tests ended before the run that begins.
func (r *report) keepEarlier() { r.earlier = maps.Clone(r.results) }

// tellAgain names the tests that failed and then passed: each has an error, or the
// code that it tests has.
func (r *report) tellAgain() string {
	var b strings.Builder
	for _, k := range r.again {
		fmt.Fprintf(&b, "failed once, and passed when it was run again: %s\n", k)
	}
	return b.String()
}
