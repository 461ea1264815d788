package deploy

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"

	"github.com/holdfast-csi/holdfast/test/chart"
)

const (
	install         = "install.md"
	troubleshooting = "troubleshooting.md"
)

func guide(t *testing.T, name string) string {
	t.Helper()
	return readFile(t, repository+"/docs/guides/"+name)
}

var fence = regexp.MustCompile("(?ms)^ *```yaml\n(.*?)^ *```$")

// snippets are the YAML blocks of a guide: those that say in their first line which
// file of an overlay they are, or that they are values of the chart, by that name, and
// the others as objects.
func snippets(t *testing.T, name string) (files map[string][]string, objects []string) {
	t.Helper()
	files = map[string][]string{}
	for _, m := range fence.FindAllStringSubmatch(guide(t, name), -1) {
		if file, ok := strings.CutPrefix(m[1], "# overlays/mine/"); ok {
			file, _, _ = strings.Cut(file, "\n")
			files[file] = append(files[file], m[1])
			continue
		}
		if strings.HasPrefix(m[1], "# values.yaml\n") {
			files["values.yaml"] = append(files["values.yaml"], m[1])
			continue
		}
		objects = append(objects, m[1])
	}
	return files, objects
}

// What a reader copies into an overlay must render, with each of the patches that
// the guides offer.
func TestTheOverlaysOfTheGuidesRender(t *testing.T) {
	files, objects := snippets(t, install)
	if len(files["kustomization.yaml"]) != 1 || len(files["pools.yaml"]) < 3 {
		t.Fatalf("install.md offers %d overlays with %d choices of pools", len(files["kustomization.yaml"]), len(files["pools.yaml"]))
	}
	for _, o := range objects {
		decode(t, install, []byte(o))
	}
	if len(files["values.yaml"]) == 0 {
		t.Error("install.md offers no values of the chart")
	}
	for _, values := range files["values.yaml"] {
		renderChart(t, chart.Options{Values: values})
	}
	more, _ := snippets(t, troubleshooting)
	patches := append(files["pools.yaml"], more["node.yaml"]...)
	for _, patch := range patches {
		top := t.TempDir()
		if err := os.CopyFS(top, os.DirFS(kustomize)); err != nil {
			t.Fatal(err)
		}
		mine := filepath.Join(top, "overlays", "mine")
		if err := os.Mkdir(mine, 0o755); err != nil {
			t.Fatal(err)
		}
		for file, text := range map[string]string{"kustomization.yaml": files["kustomization.yaml"][0], "pools.yaml": patch} {
			if err := os.WriteFile(filepath.Join(mine, file), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		sets := of[*appsv1.DaemonSet](render(t, mine))
		pod := sets[0].Spec.Template.Spec
		driver := containerNamed(t, pod, "driver")
		for _, want := range regexp.MustCompile(`(?m)value: (\S+)$`).FindAllStringSubmatch(patch, -1) {
			inArgs := strings.Contains("\n"+strings.Join(driver.Args, "\n")+"\n", "\n"+want[1]+"\n")
			if !inArgs && pod.NodeSelector["kubernetes.io/hostname"] != want[1] {
				t.Errorf("the DaemonSet does not have %s, which this says:\n%s", want[1], patch)
			}
		}
	}
}

// sources is the text of all programs that are shipped.
func sources(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, top := range []string{"cmd", "pkg"} {
		err := filepath.WalkDir(filepath.Join(repository, top), func(path string, _ fs.DirEntry, err error) error {
			if err == nil && strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go") {
				all.WriteString(readFile(t, path))
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return all.String()
}

// A reader searches the guide for the words on the screen. These are the driver's
// own; the other quotations are of Kubernetes.
func TestTheGuideQuotesWhatTheDriverSays(t *testing.T) {
	code, text := sources(t), guide(t, troubleshooting)
	for _, words := range []string{
		"on this machine; set the class parameter pool to one of:",
		"is not known: known are",
		"a volume can be written to on one node only",
		"supported are",
		"which is enough for promises of",
		"data loss",
		"attached too; writing through both would destroy it",
		"another process has the image locked",
		"no space in pool",
		"the kernel grows a mounted ext4 only for a process with CAP_SYS_RESOURCE, which this one has not",
		"its filesystem was thawed and the copy is not used",
		"held by",
		"this version of Holdfast serves one node",
		"the driver is starting: its pools are being opened",
		"the host's filesystem has",
		"its volumes and their data are left as they are, other pools go on; it is tried every",
		"its disk is not mounted or was replaced",
		"of the registered pool is gone",
		"is on neither btrfs nor XFS",
		"no block device has the filesystem",
		"both have the filesystem",
		"would hide that; move it away",
		"which is not registered on this node",
		"kubelet passed no token for audience",
		"is not a pool; if it should be one, run: driver pool init",
		"is registered as pool",
		"another driver uses the pool; this one takes over when it stops",
		"the pool's btrfs has the data profile",
	} {
		if !strings.Contains(text, words) {
			t.Errorf("the guide no longer quotes %q: take it off this list", words)
		}
		if !strings.Contains(code, words) {
			t.Errorf("the guide quotes %q, which the driver does not say", words)
		}
	}
	events := readFile(t, repository+"/docs/reference/events.md")
	for _, reason := range []string{"PoolMissing", "MountNotShared", "NodeRefused", "PoolSizeKept"} {
		if !strings.Contains(text, reason) || !strings.Contains(events, "| `"+reason+"` |") {
			t.Errorf("the event %s is not in both the guide and docs/reference/events.md", reason)
		}
	}
}

var (
	link      = regexp.MustCompile(`\]\(([^)#\s]*)(?:#([^)\s]+))?\)`)
	deployed  = regexp.MustCompile(`\bdeploy/[A-Za-z0-9_./-]*[A-Za-z0-9_-]`)
	heading   = regexp.MustCompile(`(?m)^#+ (.+)$`)
	notAnchor = regexp.MustCompile("[^a-z0-9 _-]")
)

// anchors are the names by which the headings of a document are linked to.
func anchors(document string) map[string]bool {
	found := map[string]bool{}
	for _, m := range heading.FindAllStringSubmatch(document, -1) {
		found[strings.ReplaceAll(notAnchor.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-")] = true
	}
	return found
}

func TestTheLinksOfTheGuidesLeadSomewhere(t *testing.T) {
	for _, name := range []string{install, troubleshooting} {
		text := guide(t, name)
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			target := name
			if m[1] != "" {
				target = m[1]
			}
			path := filepath.Join(repository, "docs/guides", target)
			if _, err := os.Stat(path); err != nil {
				t.Errorf("%s links to %s: %v", name, m[1], err)
				continue
			}
			if m[2] != "" && !anchors(readFile(t, path))[m[2]] {
				t.Errorf("%s links to #%s of %s, which has no such heading", name, m[2], target)
			}
		}
		for _, path := range deployed.FindAllString(text, -1) {
			if _, err := os.Stat(filepath.Join(repository, path)); err != nil && path != "deploy/kustomize/overlays/mine" {
				t.Errorf("%s names %s: %v", name, path, err)
			}
		}
	}
}
