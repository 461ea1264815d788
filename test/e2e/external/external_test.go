package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/holdfast-csi/holdfast/test/figures"
)

// atTop works where the program does, at the top of the tree.
func atTop(t *testing.T) {
	t.Helper()
	t.Chdir("../../..")
}

const report = `<?xml version="1.0" encoding="UTF-8"?>
<testsuites tests="6"><testsuite name="Kubernetes e2e suite">
<testcase name="[SynchronizedBeforeSuite]" status="passed" time="1"></testcase>
<testcase name="[It] [sig-storage] External Storage [Driver: d] [Testpattern: Dynamic PV (default fs)] [Slow] volumes should store data" status="passed" time="12.5"></testcase>
<testcase name="[It] [sig-storage] External Storage [Driver: d] [Testpattern: Dynamic Snapshot (delete policy)] snapshottable [Feature:VolumeSnapshotDataSource] works" status="failed" time="3">
<failure message="" type="failed">[FAILED] Timed out after 60s.
In [It] at: x.go:1</failure></testcase>
<testcase name="[It] [sig-storage] External Storage [Driver: d] [Testpattern: Inline-volume (ntfs)] [Feature:Windows] subPath works" status="skipped" time="0"><skipped message="skipped - Driver d doesn&#39;t support ntfs -- skipping&#xA;In [BeforeEach] at: y.go:2"></skipped></testcase>
<testcase name="[It] [sig-node] not chosen" status="skipped" time="0"><skipped message="skipped"></skipped></testcase>
<testcase name="[It] [sig-storage] External Storage [Driver: d] [Testpattern: x] volumes panics" status="panicked" time="0"><error message="" type="panicked">boom</error></testcase>
<testcase name="[SynchronizedAfterSuite]" status="timedout" time="1"><failure message="too late" type="timedout"></failure></testcase>
</testsuite></testsuites>`

func TestReportOfUpstreamsTests(t *testing.T) {
	r, err := parseJUnit(strings.NewReader(report))
	if err != nil {
		t.Fatal(err)
	}
	want := []spec{
		{suite: "volumes", pattern: "Dynamic PV (default fs)", state: passed, seconds: 12.5},
		{suite: "snapshottable", pattern: "Dynamic Snapshot (delete policy)", state: failed, text: "failed: Timed out after 60s.", seconds: 3},
		{suite: "subPath", pattern: "Inline-volume (ntfs)", state: skipped, text: "Driver d doesn't support ntfs -- skipping"},
		{suite: "volumes", pattern: "x", state: failed, text: "panicked: boom"},
		{suite: "other", state: failed, text: "timedout: too late", seconds: 1},
	}
	if diff := cmp.Diff(want, r.specs, cmp.AllowUnexported(spec{}), cmpopts.IgnoreFields(spec{}, "name")); diff != "" {
		t.Error(diff)
	}
	if got := r.line(); got != "1 passed, 3 failed, 1 skipped" {
		t.Errorf("it counts %s", got)
	}
}

// runDir has what a run leaves.
func runDir(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "external-xfs")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{junitFile: report, machineFile: "* took: 1s\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestPageSaysWhy(t *testing.T) {
	why := causes{
		Failures: []cause{{Match: "snapshottable", Cause: "slow disk"}, {Match: ".", Cause: "other"}},
		Skips:    []cause{{Match: "ntfs", Cause: "Windows"}},
	}
	for _, list := range [][]cause{why.Failures, why.Skips} {
		for i := range list {
			list[i].match = regexp.MustCompile(list[i].Match)
		}
	}
	var p figures.Page
	if err := addRun(&p, runDir(t), why); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"## Xfs\n", "* took: 1s\n", "**1 passed, 3 failed, 1 skipped.**", "| volumes | 1 | 1 | 0 |\n",
		"| [Dynamic Snapshot (delete policy)] snapshottable [Feature:VolumeSnapshotDataSource] works | slow disk |\n",
		"| 1 | Windows | Driver d doesn't support ntfs -- skipping |\n",
	} {
		if !strings.Contains(p.String(), want) {
			t.Errorf("no %q in\n%s", want, p.String())
		}
	}
}

func TestWhatRanAgainCountsAsItEndedThere(t *testing.T) {
	first, again := runDir(t), runDir(t)
	better := strings.ReplaceAll(report, `status="failed" time="3">
<failure message="" type="failed">[FAILED] Timed out after 60s.
In [It] at: x.go:1</failure>`, `status="passed" time="3">`)
	if better == report {
		t.Fatal("nothing ended otherwise")
	}
	if err := os.WriteFile(filepath.Join(again, junitFile), []byte(better), 0o644); err != nil {
		t.Fatal(err)
	}
	every := []cause{{Cause: "any", match: regexp.MustCompile("")}}
	var p figures.Page
	if err := addRun(&p, first+"+"+again, causes{Failures: every, Skips: every}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"snapshottable [Feature:VolumeSnapshotDataSource] works | failed | passed | any |\n", "**2 passed, 2 failed, 1 skipped.**"} {
		if !strings.Contains(p.String(), want) {
			t.Errorf("no %q in\n%s", want, p.String())
		}
	}
}

func TestUnknownCauseIsAnError(t *testing.T) {
	err := addRun(&figures.Page{}, runDir(t), causes{})
	if err == nil || !strings.Contains(err.Error(), "boom") || !strings.Contains(err.Error(), "doesn't support ntfs") {
		t.Errorf("got %v", err)
	}
}

func TestCausesCanBeRead(t *testing.T) {
	atTop(t)
	if _, err := readCauses(causesFile); err != nil {
		t.Error(err)
	}
}

func TestSelectionIsOfExpressions(t *testing.T) {
	lines, err := readSelection("short.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range lines {
		if _, err := regexp.Compile(line); err != nil {
			t.Error(err)
		}
	}
}

func TestCapabilitiesAreComplete(t *testing.T) {
	known := []string{"block", "RWX"}
	for name, c := range map[string]struct {
		have map[string]any
		want string
	}{
		"all":     {map[string]any{"block": true, "RWX": false}, ""},
		"missing": {map[string]any{"block": true}, "RWX must be there"},
		"unknown": {map[string]any{"block": true, "RWX": false, "rwx": true}, "no test knows the capability rwx"},
		"no bool": {map[string]any{"block": "yes", "RWX": false}, "block must be there"},
	} {
		err := checkCapabilities(c.have, known)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestCapabilitiesAreReadFromTheSource(t *testing.T) {
	source := t.TempDir()
	file := filepath.Join(source, "test/e2e/storage/framework/testdriver.go")
	text := "const (\n\tCapBlock Capability = \"block\" // raw\n\n\t// RWX\n\tCapRWX                 Capability = \"RWX\"\n)\n"
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := knownCapabilities(source)
	if diff := cmp.Diff([]string{"block", "RWX"}, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
}

func TestClassHasTheFilesystem(t *testing.T) {
	atTop(t)
	file := filepath.Join(t.TempDir(), "class.yaml")
	if err := writeClass(file, "ext4", "Immediate"); err != nil {
		t.Fatal(err)
	}
	class, err := readYAML(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]any{fsTypeKey: "ext4"}, class["parameters"]); diff != "" || class["volumeBindingMode"] != "Immediate" || class["provisioner"] != "csi.holdfast.dev" {
		t.Errorf("%v of %v", diff, class)
	}
	for _, c := range [][2]string{{"ntfs", "Immediate"}, {"xfs", "Late"}} {
		if err := writeClass(file, c[0], c[1]); err == nil {
			t.Errorf("a class of %s was written", c)
		}
	}
}
