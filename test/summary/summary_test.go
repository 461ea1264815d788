package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const pkg = module + "pkg/a"

// events are the lines that go test -json would write: each is "action test
// output".
func events(lines ...string) string {
	var b strings.Builder
	for _, line := range lines {
		action, rest, _ := strings.Cut(line, " ")
		test, output, _ := strings.Cut(rest, " ")
		fmt.Fprintf(&b, "{\"Action\":%q,\"Package\":%q,\"Test\":%q,\"Output\":%q}\n", action, pkg, test, output+"\n")
	}
	return b.String()
}

// summarize is what the program prints for a stream, and whether all is well.
func summarize(t *testing.T, stream string) (text string, ok bool) {
	t.Helper()
	var out bytes.Buffer
	r := newReport(&out)
	if err := r.read(strings.NewReader(stream)); err != nil {
		t.Fatal(err)
	}
	ok = r.finish()
	return out.String(), ok
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	return lines[len(lines)-1]
}

func TestTheLastLineCounts(t *testing.T) {
	brokenBuild := `{"ImportPath":"` + pkg + ` [` + pkg + `.test]","Action":"build-output","Output":"a.go:3:1: undefined: x\n"}
{"Action":"fail","Package":"` + pkg + `","Elapsed":0,"FailedBuild":"` + pkg + ` [` + pkg + `.test]"}
`
	for name, c := range map[string]struct {
		stream string
		want   string
		ok     bool
		says   string
	}{
		"nothing ran":    {"", "0 passed, 0 failed, 0 skipped", false, ""},
		"no test ran":    {events("pass"), "0 passed, 0 failed, 0 skipped", false, ""},
		"a test passed":  {events("run T", "output T hello", "pass T", "pass"), "1 passed, 0 failed, 0 skipped", true, "ok    pkg/a"},
		"a test failed":  {events("run T", "output T why", "fail T", "fail"), "0 passed, 1 failed, 0 skipped", false, "      why\n"},
		"all is skipped": {events("run T", "output T     a_test.go:7: needs root", "skip T", "pass"), "0 passed, 0 failed, 1 skipped", false, "  needs root (1)\n    pkg/a T\n"},
		"a test with subtests is its subtests": {
			events("run T", "run T/a", "run T/a/1", "run T/b", "pass T/a/1", "pass T/a", "fail T/b", "fail T", "fail"),
			"1 passed, 1 failed, 0 skipped", false, "",
		},
		"a test fails by itself after its subtests": {
			events("run T", "run T/a", "pass T/a", "output T leaked", "fail T", "fail"), "1 passed, 1 failed, 0 skipped", false, "leaked",
		},
		"a package that does not build":          {brokenBuild, "0 passed, 1 failed, 0 skipped", false, "undefined: x"},
		"a package that fails outside its tests": {events("run T", "pass T", "output  leaked loop0", "fail"), "1 passed, 1 failed, 0 skipped", false, "leaked loop0"},
		"a package that died in a test":          {events("run T", "output T panic: boom", "fail"), "0 passed, 1 failed, 0 skipped", false, "did not end: T\n      panic: boom"},
		"a test of two runs counts once": {
			"summary: pass unit\n" + events("run T", "pass T", "run U", "skip U", "pass") + "summary: pass root\n" + events("run T", "pass T", "run U", "pass U", "pass"),
			"2 passed, 0 failed, 0 skipped", true, "== root",
		},
		"a test that fails in one run has failed": {
			"summary: pass unit\n" + events("run T", "pass T", "pass") + "summary: pass race\n" + events("run T", "fail T", "fail"),
			"0 passed, 1 failed, 0 skipped", false, "",
		},
		"a test that passes when run again": {
			events("run T", "run T/a", "output T/a why", "fail T/a", "fail T", "fail") + "summary: exit 1\nsummary: again " + pkg + " T\n" +
				events("run T", "run T/a", "pass T/a", "pass T", "pass") + "summary: exit 0\n",
			"1 passed, 0 failed, 0 skipped", true, "      why\n",
		},
		"it is named": {
			events("run T", "fail T", "fail") + "summary: again " + pkg + " T\n" + events("run T", "pass T", "pass") + "summary: exit 0\n",
			"1 passed, 0 failed, 0 skipped", true, "failed once, and passed when it was run again: pkg/a T\n",
		},
		"a test that fails again": {
			events("run T", "fail T", "fail") + "summary: again " + pkg + " T\n" + events("run T", "pass T", "run T", "fail T", "fail"),
			"0 passed, 1 failed, 0 skipped", false, "== again: pkg/a T",
		},
		"a run again that did not start": {
			events("run T", "fail T", "fail") + "summary: again " + pkg + " T\nsummary: exit 2\n",
			"0 passed, 2 failed, 0 skipped", false, "status 2",
		},
		"a run again that ran nothing": {
			events("run T", "fail T", "fail") + "summary: again " + pkg + " T\n" + events("run T", "skip T", "pass") + "summary: exit 0\n",
			"0 passed, 2 failed, 0 skipped", false, "it did not pass",
		},
		"a run again that never ended": {
			events("run T", "fail T", "fail") + "summary: again " + pkg + " T\n" + events("run T", "pass T"),
			"0 passed, 1 failed, 0 skipped", false, "",
		},
		"what failed in an earlier run stays so": {
			"summary: pass unit\n" + events("run T", "fail T", "fail") + "summary: pass race\n" + events("run T", "fail T", "fail") +
				"summary: again " + pkg + " T\n" + events("run T", "pass T", "pass") + "summary: exit 0\n",
			"0 passed, 1 failed, 0 skipped", false, "",
		},
		"a skipped test that has subtests where it runs": {
			events("run T", "skip T", "pass") + "summary: pass root\n" + events("run T", "run T/a", "pass T/a", "pass T", "pass"),
			"1 passed, 0 failed, 0 skipped", true, "",
		},
		"a run that cannot be":      {events("run T", "pass T", "pass") + "summary: skip race detector: no gcc\n", "1 passed, 0 failed, 1 skipped", true, "  no gcc (1)\n    race detector"},
		"the go command failed":     {"summary: pass unit\n" + events("run T", "pass T", "pass") + "summary: exit 1\n", "1 passed, 1 failed, 0 skipped", false, "status 1"},
		"a failure explains status": {events("run T", "fail T", "fail") + "summary: exit 1\n", "0 passed, 1 failed, 0 skipped", false, ""},
		"other lines are shown":     {"go: downloading x\n" + events("run T", "pass T", "pass"), "1 passed, 0 failed, 0 skipped", true, "go: downloading x\n"},
	} {
		t.Run(name, func(t *testing.T) {
			text, ok := summarize(t, c.stream)
			if got := lastLine(text); got != c.want || ok != c.ok {
				t.Errorf("got %q, well %v; want %q, well %v\n%s", got, ok, c.want, c.ok, text)
			}
			if !strings.Contains(text, c.says) {
				t.Errorf("does not say %q:\n%s", c.says, text)
			}
		})
	}
}

func TestOfMuchOutputBothEndsAreKept(t *testing.T) {
	r := newReport(io.Discard)
	for _, text := range []string{"where it failed\n", strings.Repeat("log\n", maxOutput), "the end\n"} {
		r.event(event{Action: "output", Package: "p", Test: "T", Output: text})
	}
	got := r.output[key{"p", "T"}]
	if !strings.HasPrefix(got, "where it failed\n") || !strings.HasSuffix(got, "log\nthe end\n") || len(got) > maxOutput {
		t.Errorf("%d bytes: %.40q", len(got), got)
	}
}

// TestRealGoTest reads what the go command itself writes about a module with one
// package of each kind.
func TestRealGoTest(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":              "module example.test/m\n\ngo 1.26.0\n",
		"good/good_test.go":   "package good\n\nimport \"testing\"\n\nfunc TestIt(t *testing.T) {\n\tt.Run(\"a\", func(t *testing.T) {})\n\tt.Run(\"b\", func(t *testing.T) { t.Skip(\"no b here\") })\n}\n",
		"bad/bad_test.go":     "package bad\n\nimport \"testing\"\n\nfunc TestIt(t *testing.T) { t.Fatal(\"it is bad\") }\n",
		"dead/dead_test.go":   "package dead\n\nimport (\n\t\"os\"\n\t\"testing\"\n)\n\nfunc TestIt(t *testing.T) { os.Exit(3) }\n",
		"broken/broken.go":    "package broken\n\nvar x int = \"y\"\n",
		"broken/main_test.go": "package broken\n\nimport \"testing\"\n\nfunc TestIt(t *testing.T) {}\n",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "go", "test", "-json", "-vet=off", "./...")
	cmd.Dir = dir
	stream, err := cmd.Output()
	if err == nil {
		t.Fatal("go test passed")
	}
	text, ok := summarize(t, string(stream)+"summary: exit 1\n")
	if got := lastLine(text); ok || got != "1 passed, 3 failed, 1 skipped" {
		t.Errorf("got %q:\n%s", got, text)
	}
	for _, want := range []string{"it is bad", "cannot use", "no b here", "ok    example.test/m/good"} {
		if !strings.Contains(text, want) {
			t.Errorf("does not say %q:\n%s", want, text)
		}
	}
}

func TestWhatIsRunAgain(t *testing.T) {
	for name, c := range map[string]struct {
		stream string
		want   string
	}{
		"a test, with its subtests": {events("run T", "run T/a", "fail T/a", "fail T", "run U", "pass U", "output  FAIL", "output  exit status 1", "fail"), "T"},
		"nothing if all is well":    {events("run T", "pass T", "output  PASS", "pass"), ""},
		"a test beside a package that passed": {
			strings.ReplaceAll(events("run U", "pass U", "output  PASS", "output  ok  \t1s", "pass"), pkg, pkg+"/b") +
				events("run T", "fail T", "output  FAIL", "output  FAIL\tpkg/a", "fail"), "T",
		},
		"nothing if a package failed": {events("run T", "pass T", "output  PASS", "output  leaked loop0", "fail"), ""},
		"nothing if a package failed, too": {
			events("run T", "fail T", "output  FAIL", "output  leaked loop0", "output  exit status 1", "fail"), "",
		},
		"nothing if a test panicked": {
			events("run T", "output T panic: boom", "fail T", "output  exit status 2", "fail"), "",
		},
		"nothing if there was a race": {
			events("run T", "output T WARNING: DATA RACE", "fail T", "output  FAIL", "fail"), "",
		},
		"nothing if many failed": {events("run T", "fail T", "run U", "fail U", "run V", "fail V", "output  FAIL", "fail"), ""},
	} {
		keys, err := again(strings.NewReader(c.stream))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, k := range keys {
			got = append(got, k.Test)
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: %q is run again, want %q", name, got, c.want)
		}
	}
}
