package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// maxNames is how many tests are named for one reason to skip.
const maxNames = 8

// finish tells what was skipped and what failed, and counts. It reports whether
// all is well: something ran and nothing failed.
func (r *report) finish() bool {
	r.tellSkipped()
	failures := r.having(failed)
	if len(failures) > 0 {
		fmt.Fprintln(r.out, "\nfailed:")
		for _, k := range failures {
			fmt.Fprintf(r.out, "  %s\n", k)
		}
	}
	if text := r.tellAgain(); text != "" {
		fmt.Fprintf(r.out, "\n%s", text)
	}
	fmt.Fprintf(r.out, "\n%s\n", r.line())
	return len(failures) == 0 && len(r.having(passed)) > 0
}

func (r *report) line() string {
	return fmt.Sprintf("%d passed, %d failed, %d skipped", len(r.having(passed)), len(r.having(failed)), len(r.having(skipped)))
}

func (r *report) tellSkipped() {
	byReason := map[string][]string{}
	for _, k := range r.having(skipped) {
		byReason[r.reasons[k]] = append(byReason[r.reasons[k]], k.String())
	}
	if len(byReason) > 0 {
		fmt.Fprintln(r.out, "\nskipped:")
	}
	for _, why := range slices.Sorted(maps.Keys(byReason)) {
		names := byReason[why]
		fmt.Fprintf(r.out, "  %s (%d)\n", why, len(names))
		for _, name := range names[:min(maxNames, len(names))] {
			fmt.Fprintf(r.out, "    %s\n", name)
		}
		if more := len(names) - maxNames; more > 0 {
			fmt.Fprintf(r.out, "    and %d more\n", more)
		}
	}
}

// having are the tests that ended so, in order.
func (r *report) having(o outcome) []key {
	var keys []key
	for k, got := range r.results {
		if got == o {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, func(a, b key) int { return strings.Compare(a.String(), b.String()) })
	return keys
}

// reason is what a skipped test said, without the place where it said it.
func reason(output string) string {
	var text []string
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(line)
		if place, rest, ok := strings.Cut(line, ": "); ok && strings.Contains(place, ".go:") && !strings.Contains(place, " ") {
			line = rest
		}
		if line != "" {
			text = append(text, line)
		}
	}
	if len(text) == 0 {
		return "no reason given"
	}
	return strings.Join(text, "; ")
}

// module is left out of the names of packages: they are all in it.
const module = "github.com/holdfast-csi/holdfast/"

func shortPackage(path string) string { return strings.TrimPrefix(path, module) }

func indent(text string) string {
	if strings.TrimSpace(text) == "" {
		return ""
	}
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString("      " + line)
	}
	if !strings.HasSuffix(text, "\n") {
		b.WriteByte('\n')
	}
	return b.String()
}
