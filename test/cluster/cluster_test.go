package cluster

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestBuildModuleTakesOverReplacements(t *testing.T) {
	var theirs goMod
	theirs.Go = "1.26.0"
	theirs.Require = []struct{ Path, Version string }{{"k8s.io/api", "v0.0.0"}, {"example.org/fork", "v1.0.0"}}
	theirs.Replace = []struct {
		Old struct{ Path, Version string }
		New struct{ Path, Version string }
	}{
		{Old: struct{ Path, Version string }{"k8s.io/api", ""}, New: struct{ Path, Version string }{"./staging/src/k8s.io/api", ""}},
		{Old: struct{ Path, Version string }{"example.org/fork", ""}, New: struct{ Path, Version string }{"example.org/theirs", "v1.2.3"}},
		{Old: struct{ Path, Version string }{"example.org/unused", ""}, New: struct{ Path, Version string }{"../unused", ""}},
	}
	got := source{name: "it", module: "example.org/it", version: "v1.0.0", local: "v0.36.3"}.goMod(theirs)
	want := `module holdfast.test/build/it

go 1.26.0

require example.org/it v1.0.0
require k8s.io/api v0.0.0
require example.org/fork v1.0.0
replace k8s.io/api  => k8s.io/api v0.36.3
replace example.org/fork  => example.org/theirs v1.2.3
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestEveryImageOfTheManifestsCanBeMade(t *testing.T) {
	l, err := findTree()
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, dir := range []string{"deploy/kustomize/base", "deploy/kustomize/components/snapshot-controller", examples} {
		text, err := l.readAll(dir)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, imagesIn(text)...)
	}
	if len(all) < 7 {
		t.Fatalf("the manifests name %q only", all)
	}
	all = append(all, suiteImages()...)
	for _, ref := range all {
		if _, err := l.maker(ref); err != nil {
			t.Error(err)
		}
	}
}

// Programs of two versions of Kubernetes are kept apart, and staging modules have the
// version that upstream gives them.
func TestAnotherKubernetesHasAPlaceOfItsOwn(t *testing.T) {
	seen := map[string]bool{}
	for _, version := range []string{defaultKubernetes, "v1.34.4"} {
		l := layout{tree: "/tree", kubernetes: version}
		k := l.programs()[0]
		if k.version != version || k.local != "v0"+strings.TrimPrefix(version, "v1") {
			t.Errorf("for %s module %s is of %s, its parts are of %s", version, k.module, k.version, k.local)
		}
		for _, d := range append(l.controlPlane()[1:], l.kubelet()) {
			if filepath.Dir(d.path) != k.dir || seen[d.path] {
				t.Errorf("%s of %s is %s, and is built into %s", d.name, version, d.path, k.dir)
			}
			seen[d.path] = true
		}
	}
}

func TestUnknownImageIsRefused(t *testing.T) {
	for _, ref := range []string{"example.org/other:1", sidecarName + "csi-provisioner:v0.0.1", sidecarName + "csi-attacher:v4.13.0", suiteName + "perl:5.26"} {
		if _, err := (layout{}).maker(ref); err == nil {
			t.Errorf("%s can be made", ref)
		}
	}
}

func TestImagesAreFoundOnce(t *testing.T) {
	got := imagesIn("  - image: b:1\n    image: \"a:1\"\n  image: b:1\n  imagePullPolicy: Never\n")
	if diff := cmp.Diff([]string{"a:1", "b:1"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestProcessIsKnownByItsStart(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	started, err := startTime(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	id := identity{pid: cmd.Process.Pid, start: started}
	if !id.alive() {
		t.Error("a process that runs is not alive")
	}
	if (identity{pid: id.pid, start: id.start + 1}).alive() {
		t.Error("a process of the same number that started later counts as the same")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	// Until it is waited for it is a zombie, and gone all the same.
	if err := wait(t.Context(), 5*time.Second, func() bool { return !id.alive() }); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait() // it was killed
}

func TestWaitSaysHowLong(t *testing.T) {
	err := wait(t.Context(), 10*time.Millisecond, func() bool { return false })
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "10ms") {
		t.Errorf("got %v", err)
	}
}

func TestNodeOfAnotherClusterIsRefused(t *testing.T) {
	dir := t.TempDir()
	for _, vacant := range []string{dir, dir + "/absent"} {
		if err := checkVacant(vacant); err != nil {
			t.Error(err)
		}
	}
	if err := os.Mkdir(dir+"/pods", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := checkVacant(dir); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("got %v", err)
	}
}

func TestSmallDiskGetsASmallPool(t *testing.T) {
	l := layout{tree: t.TempDir()}
	dir, err := l.patchedOverlay([]string{"--pool-size=7Gi", "--host-reserve=1"})
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "kustomization.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"../../../" + overlay, `"--pool-size=7Gi"`, `"--host-reserve=1"`} {
		if !strings.Contains(string(text), want) {
			t.Errorf("%s is not in\n%s", want, text)
		}
	}
}
