package main

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/holdfast-csi/holdfast/test/figures"
)

// preface starts the page.
const preface = `# Upstream's storage tests

What the Kubernetes project tests of every storage driver ("External.Storage", ` + "`test/e2e/storage`" + ` of its tree), run against
Holdfast as it is installed from ` + "`deploy`" + `. The tests are built from the module of Kubernetes and are not changed. ` + "`make e2e-external`" + `
runs them, ` + "`make conformance`" + ` writes this page from what the runs left; nothing on it is written by hand, but the causes, which
are in [causes.yaml](../../test/e2e/external/causes.yaml).`

func page(args []string) error {
	flags := flag.NewFlagSet("external page", flag.ContinueOnError)
	out := flags.String("out", "docs/reference/conformance.md", "the page to write")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() == 0 {
		return errors.New("which runs? give the directories with their results")
	}
	why, err := readCauses(causesFile)
	if err != nil {
		return err
	}
	var p figures.Page
	p.Line("%s", preface)
	for _, dir := range flags.Args() {
		if err := addRun(&p, dir, why); err != nil {
			return fmt.Errorf("the run in %s: %w", dir, err)
		}
	}
	return os.WriteFile(*out, p.Bytes(), 0o644)
}

// addRun adds what a run was, what it counted, and why what did not pass did not. The
// directories of later runs may follow with a + between: what ran there again counts
// as it ended there.
func addRun(p *figures.Page, dirs string, why causes) error {
	dir, again, repeated := strings.Cut(dirs, "+")
	r, err := readResult(dir)
	if err != nil {
		return err
	}
	facts, err := os.ReadFile(filepath.Join(dir, machineFile))
	if err != nil {
		return err
	}
	p.Line("\n## %s\n\n%s", heading(dir), facts)
	for repeated {
		dir, again, repeated = strings.Cut(again, "+")
		if err := addRepeated(p, dir, &r, why.Failures); err != nil {
			return err
		}
	}
	p.Line("**%s.**", r.line())
	addSuites(p, r)
	return errors.Join(addFailures(p, r.having(failed), why.Failures), addSkips(p, r.having(skipped), why.Skips))
}

// addRepeated puts the results of a later run in the place of earlier ones, and says
// of which tests that changed the end, and why.
func addRepeated(p *figures.Page, dir string, r *result, why []cause) error {
	later, err := readResult(dir)
	if err != nil {
		return err
	}
	facts, err := os.ReadFile(filepath.Join(dir, machineFile))
	if err != nil {
		return err
	}
	p.Line("Some of them again, and that result counts:\n\n%s", facts)
	p.Table("test", "first", "again", "why")
	for _, l := range later.specs {
		i := slices.IndexFunc(r.specs, func(s spec) bool { return s.name == l.name })
		if i < 0 || l.state == skipped || r.specs[i].state == l.state {
			continue
		}
		cause, ok := find(why, l.name)
		if !ok {
			return fmt.Errorf("%s does not say why %s first ended otherwise", causesFile, l.name)
		}
		p.Row(cell(short(l.name)), r.specs[i].state.String(), l.state.String(), cell(cause))
		r.specs[i] = l
	}
	p.Line("")
	return nil
}

// heading is the name of a run: that of its directory, in words.
func heading(dir string) string {
	words := strings.ReplaceAll(strings.TrimPrefix(filepath.Base(dir), "external-"), "-", " ")
	return strings.ToUpper(words[:1]) + words[1:]
}

// addSuites adds the counts of each suite.
func addSuites(p *figures.Page, r result) {
	counts := map[string]*[3]int{}
	for _, s := range r.specs {
		if counts[s.suite] == nil {
			counts[s.suite] = &[3]int{}
		}
		counts[s.suite][s.state]++
	}
	p.Table("suite", "passed", "failed", "skipped")
	for _, suite := range slices.Sorted(maps.Keys(counts)) {
		n := counts[suite]
		p.Row(suite, fmt.Sprint(n[passed]), fmt.Sprint(n[failed]), fmt.Sprint(n[skipped]))
	}
}

func addFailures(p *figures.Page, list []spec, why []cause) error {
	if len(list) == 0 {
		return nil
	}
	var unknown []error
	p.Line("\nWhat failed:")
	p.Table("test", "cause")
	for _, s := range list {
		cause, ok := find(why, s.name)
		if !ok {
			unknown = append(unknown, fmt.Errorf("%s says no cause for %s, which said: %s", causesFile, s.name, s.text))
		}
		p.Row(cell(short(s.name)), cell(cause))
	}
	return errors.Join(unknown...)
}

// addSkips adds a row for each cause, with what the tests said.
func addSkips(p *figures.Page, list []spec, why []cause) error {
	counts, reasons := map[string]int{}, map[string][]string{}
	var unknown []error
	for _, s := range list {
		cause, ok := find(why, s.text)
		if !ok {
			unknown = append(unknown, fmt.Errorf("%s says no cause for %s, which was skipped: %s", causesFile, s.name, s.text))
			continue
		}
		counts[cause]++
		if !slices.Contains(reasons[cause], s.text) {
			reasons[cause] = append(reasons[cause], s.text)
		}
	}
	if len(counts) > 0 {
		p.Line("\nWhat the tests skipped:")
		p.Table("tests", "cause", "what they say")
		for _, cause := range slices.SortedFunc(maps.Keys(counts), func(a, b string) int {
			if counts[a] != counts[b] {
				return counts[b] - counts[a]
			}
			return strings.Compare(a, b)
		}) {
			slices.Sort(reasons[cause])
			p.Row(fmt.Sprint(counts[cause]), cell(cause), cell(strings.Join(reasons[cause], "; ")))
		}
	}
	return errors.Join(unknown...)
}

// short is the name of a test without what all have.
func short(name string) string {
	_, rest, ok := strings.Cut(name, "[Testpattern: ")
	if !ok {
		return name
	}
	return "[" + rest
}

// cell is text that may stand in a table.
func cell(text string) string { return strings.ReplaceAll(text, "|", `\|`) }
