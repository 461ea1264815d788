package main

import (
	"encoding/xml"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// state is how a test ended.
type state int

const (
	passed state = iota
	failed
	skipped
)

func (s state) String() string { return [...]string{"passed", "failed", "skipped"}[s] }

// spec is one test of the JUnit file.
type spec struct {
	// suite is the test suite, such as snapshottable, pattern the kind of volume, and
	// name the whole name.
	suite, pattern, name string
	state                state
	// text is the first line that a failed test said, or the reason of a skip.
	text    string
	seconds float64
}

// result is what came of a run: the tests that it chose, in order of name.
type result struct{ specs []spec }

// junitCase is a test case as Ginkgo writes it (reporters/junit_report.go).
type junitCase struct {
	Name    string       `xml:"name,attr"`
	Status  string       `xml:"status,attr"`
	Time    float64      `xml:"time,attr"`
	Failure *junitDetail `xml:"failure"`
	Error   *junitDetail `xml:"error"`
	Skipped *junitDetail `xml:"skipped"`
}

type junitDetail struct {
	Message string `xml:"message,attr"`
	Text    string `xml:",chardata"`
}

// readResult reads the JUnit file of the run in a directory.
func readResult(dir string) (result, error) {
	file := filepath.Join(dir, junitFile)
	f, err := os.Open(file)
	if err != nil {
		return result{}, fmt.Errorf("the tests left no report: %w", err)
	}
	defer f.Close()
	r, err := parseJUnit(f)
	if err != nil {
		return result{}, fmt.Errorf("read %s: %w", file, err)
	}
	return r, nil
}

// parseJUnit reads a JUnit file that Ginkgo wrote. A test that was not chosen is in it
// as skipped without a reason, and is left out here.
func parseJUnit(in io.Reader) (result, error) {
	var file struct {
		Cases []junitCase `xml:"testsuite>testcase"`
	}
	if err := xml.NewDecoder(in).Decode(&file); err != nil {
		return result{}, err
	}
	var r result
	for _, c := range file.Cases {
		name, isTest := strings.CutPrefix(c.Name, "[It] ")
		s := spec{name: name, seconds: c.Time}
		s.pattern, s.suite = divide(name)
		switch {
		case c.Status == "passed":
			s.state = passed
		case c.Skipped != nil:
			why, ok := strings.CutPrefix(c.Skipped.Message, "skipped - ")
			if !ok {
				continue
			}
			s.state, s.text = skipped, firstLine(why)
		default:
			s.state, s.text = failed, c.Status+": "+c.said()
		}
		// What goes on around the tests counts if it fails.
		if isTest || s.state == failed {
			r.specs = append(r.specs, s)
		}
	}
	return r, nil
}

// said is the first line of what a failed test said.
func (c junitCase) said() string {
	for _, d := range []*junitDetail{c.Failure, c.Error} {
		if d == nil {
			continue
		}
		if line := firstLine(strings.TrimPrefix(strings.TrimSpace(d.Text), "[FAILED] ")); line != "" {
			return line
		}
		return firstLine(d.Message)
	}
	return "it says nothing"
}

// maxText is how much of a line is kept: some have the data that was written.
const maxText = 200

func firstLine(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	if line = strings.TrimSpace(line); len(line) > maxText {
		line = strings.ToValidUTF8(line[:maxText], "") + " ..."
	}
	return line
}

// nameForm is how upstream builds the name of a storage test: the pattern, tags of
// it, the suite, and the rest (test/e2e/storage/framework/testsuite.go).
var nameForm = regexp.MustCompile(`\[Testpattern: ([^\]]*)\]((?: \[[^\]]*\])*) (\S+)`)

// divide finds the pattern and the suite in the name of a test.
func divide(name string) (pattern, suite string) {
	m := nameForm.FindStringSubmatch(name)
	if m == nil {
		return "", "other"
	}
	return m[1], m[3]
}

func (r result) having(want state) []spec {
	var found []spec
	for _, s := range r.specs {
		if s.state == want {
			found = append(found, s)
		}
	}
	return found
}

// line counts, in the form of test/summary.
func (r result) line() string {
	return fmt.Sprintf("%d passed, %d failed, %d skipped", len(r.having(passed)), len(r.having(failed)), len(r.having(skipped)))
}

// tell writes what failed, and counts.
func (r result) tell(out io.Writer) {
	for _, s := range r.having(failed) {
		fmt.Fprintf(out, "FAIL  %s\n      %s\n", s.name, s.text)
	}
	fmt.Fprintf(out, "\n%s\n", r.line())
}
