package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// maxOutput bounds in bytes what is kept of one test's output: as much of its beginning,
// which says where the test failed, as of its end.
const maxOutput = 64 << 10

// outcome is how a test ended. A larger one stands over a smaller one when a
// test runs more than once.
type outcome int

const (
	skipped outcome = iota
	passed
	failed
)

// key names a test; Test is "" for the package itself.
type key struct{ Package, Test string }

func (k key) String() string {
	pkg := shortPackage(k.Package)
	if k.Test == "" {
		return pkg
	}
	return pkg + " " + k.Test
}

// report reads events and tells what they say.
type report struct {
	out io.Writer

	results map[key]outcome
	reasons map[key]string  // why a test was skipped
	parents map[key]bool    // tests that have subtests, in whatever run
	earlier map[key]outcome // results as they were when the run before reruns began
	again   []key           // tests that passed when they were run again

	// The rerun that is being read, if it is one, and whether its test passed.
	rerun       *key
	rerunPassed bool

	// The run that is being read.
	run       string
	output    map[key]string
	failures  map[string]int
	broken    map[string]string // what the compiler said, by package
	runFailed int
}

func newReport(out io.Writer) *report {
	r := &report{out: out, results: map[key]outcome{}, reasons: map[key]string{}, parents: map[key]bool{}}
	r.startRun("")
	return r
}

func (r *report) startRun(name string) {
	r.run = name
	r.output, r.failures, r.broken = map[key]string{}, map[string]int{}, map[string]string{}
	r.runFailed = 0
}

// read takes in everything until the end of in.
func (r *report) read(in io.Reader) error {
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadString('\n')
		if text := strings.TrimSuffix(line, "\n"); text != "" {
			r.add(text)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the events: %w", err)
		}
	}
}

func (r *report) add(line string) {
	if e, ok := parseEvent([]byte(line)); ok {
		r.event(e)
		return
	}
	m, ok := parseMarker(line)
	switch {
	case !ok:
		fmt.Fprintln(r.out, line)
	case m.verb == "pass":
		r.keepEarlier()
		r.startRun(m.text)
		fmt.Fprintf(r.out, "\n== %s\n", m.text)
	case m.verb == "again":
		pkg, test, _ := strings.Cut(m.text, " ")
		r.startAgain(pkg, test)
		fmt.Fprintf(r.out, "\n== %s\n", r.run)
	case m.verb == "skip":
		what, reason, _ := strings.Cut(m.text, ": ")
		r.settle(key{what, ""}, skipped)
		r.reasons[key{what, ""}] = reason
		fmt.Fprintf(r.out, "\n== %s: skipped, %s\n", what, reason)
	case m.verb == "exit" && r.rerun != nil:
		r.endAgain(m.text)
	case m.verb == "exit" && m.text != "0" && r.runFailed == 0:
		// Nothing that failed has said so: the go command itself did.
		k := key{"go test", ""}
		if r.run != "" {
			k.Package = r.run
		}
		r.fail(k, "the go command ended with status "+m.text+"\n")
	}
}

func (r *report) event(e event) {
	k := key{e.Package, e.Test}
	switch e.Action {
	case "build-output":
		pkg, _, _ := strings.Cut(e.ImportPath, " ")
		r.broken[pkg] += e.Output
	case "run":
		for i := strings.LastIndexByte(e.Test, '/'); i >= 0; i = strings.LastIndexByte(e.Test[:i], '/') {
			r.addParent(key{e.Package, e.Test[:i]})
		}
	case "output":
		if text := r.output[k] + e.Output; !isFrame(e) {
			if len(text) > maxOutput {
				text = text[:maxOutput/2] + text[len(text)-maxOutput/2:]
			}
			r.output[k] = text
		}
	case "pass", "fail", "skip":
		if e.Test == "" {
			r.endPackage(e)
		} else {
			r.endTest(k, e.Action)
		}
	}
}

// addParent takes back what an earlier run said about a test: skipped, it had no
// subtests yet.
func (r *report) addParent(k key) {
	r.parents[k] = true
	if r.results[k] != failed {
		delete(r.results, k)
	}
}

func (r *report) endTest(k key, action string) {
	switch {
	case action == "fail" && (!r.parents[k] || !r.childFailed(k)):
		r.failures[k.Package]++
		r.fail(k, r.output[k])
	case action == "fail":
		// Its subtests have said what is wrong; what it said itself may explain it.
		fmt.Fprint(r.out, indent(r.output[k]))
	case r.parents[k]:
	case action == "skip":
		r.settle(k, skipped)
		r.reasons[k] = reason(r.output[k])
	default:
		r.settle(k, passed)
	}
	if r.rerun != nil && k == *r.rerun && action == "pass" {
		r.rerunPassed = true
	}
	delete(r.output, k)
}

func (r *report) childFailed(k key) bool {
	for other, o := range r.results {
		if o == failed && other.Package == k.Package && strings.HasPrefix(other.Test, k.Test+"/") {
			return true
		}
	}
	return false
}

func (r *report) endPackage(e event) {
	k := key{e.Package, ""}
	switch {
	case e.Action == "fail" && e.FailedBuild != "":
		pkg, _, _ := strings.Cut(e.FailedBuild, " ")
		r.fail(k, r.broken[pkg]+r.output[k])
	case e.Action == "fail" && r.failures[e.Package] == 0:
		// Its tests passed: what it does around them (a leak check) did not, or it
		// died in the middle of one.
		r.fail(k, r.unfinished(e.Package)+r.output[k])
	case e.Action == "fail":
		fmt.Fprintf(r.out, "FAIL  %s  %.1fs\n%s", shortPackage(e.Package), e.Elapsed, indent(r.output[k]))
	case e.Action == "skip": // it has no tests
	default:
		fmt.Fprintf(r.out, "ok    %s  %.1fs\n", shortPackage(e.Package), e.Elapsed)
	}
	delete(r.output, k)
}

// unfinished is what the tests of a package said that never ended.
func (r *report) unfinished(pkg string) string {
	var names []key
	for k := range r.output {
		if k.Package == pkg && k.Test != "" {
			names = append(names, k)
		}
	}
	slices.SortFunc(names, func(a, b key) int { return strings.Compare(a.Test, b.Test) })
	var text strings.Builder
	for _, k := range names {
		fmt.Fprintf(&text, "did not end: %s\n%s", k.Test, r.output[k])
	}
	return text.String()
}

func (r *report) fail(k key, output string) {
	r.runFailed++
	r.settle(k, failed)
	fmt.Fprintf(r.out, "FAIL  %s\n%s", k, indent(output))
}

func (r *report) settle(k key, o outcome) {
	if before, ok := r.results[k]; !ok || o > before {
		r.results[k] = o
	}
}
