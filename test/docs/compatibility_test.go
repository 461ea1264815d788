package docs

import (
	"path"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const compatibility = "docs/reference/compatibility.md"

// required are the versions of the modules in go.mod, and that of Go as "go".
func required(t *testing.T) map[string]string {
	t.Helper()
	versions := map[string]string{}
	for line := range strings.Lines(readFile(t, "go.mod")) {
		words := strings.Fields(line)
		if len(words) >= 2 && words[0] == "go" {
			versions["go"] = words[1]
		}
		if len(words) >= 2 && strings.HasPrefix(words[1], "v") {
			versions[words[0]] = words[1]
		}
	}
	return versions
}

var (
	builtHere     = regexp.MustCompile(`module: "([^"]+)", version: "([^"]+)"`)
	kubernetes    = regexp.MustCompile(`defaultKubernetes += "([^"]+)"`)
	oldKubernetes = regexp.MustCompile(`(?m)^OLD_KUBERNETES := (\S+)$`)
)

// built are the versions of the modules that the test cluster is built from.
func built(t *testing.T) map[string]string {
	t.Helper()
	versions := map[string]string{}
	for _, file := range []string{"test/cluster/build.go", "test/cluster/vault.go"} {
		for _, m := range builtHere.FindAllStringSubmatch(readFile(t, file), -1) {
			versions[m[1]] = m[2]
		}
	}
	version := kubernetes.FindStringSubmatch(readFile(t, "test/cluster/layout.go"))
	if len(versions) == 0 || version == nil {
		t.Fatal("test/cluster names no version where this test looks")
	}
	versions["k8s.io/kubernetes"] = version[1]
	return versions
}

var sidecarImage = regexp.MustCompile(`registry\.k8s\.io/sig-storage/([a-z-]+):(v[0-9][^\s"']*)`)

// deployed are the versions of the sidecars that the manifests name.
func deployed(t *testing.T) map[string]string {
	t.Helper()
	versions := map[string]string{}
	for _, file := range files(t, ".yaml") {
		if !strings.HasPrefix(file, "deploy/") {
			continue
		}
		for _, m := range sidecarImage.FindAllStringSubmatch(readFile(t, file), -1) {
			if have := versions[m[1]]; have != "" && have != m[2] {
				t.Errorf("%s names %s %s, another manifest %s", file, m[1], m[2], have)
			}
			versions[m[1]] = m[2]
		}
	}
	return versions
}

func TestCompatibilityNamesTheVersionsThatAreUsed(t *testing.T) {
	document := readFile(t, compatibility)
	modules, programs := required(t), built(t)

	if first := rows(t, section(t, document, "## Kubernetes"))[0]; first[0] != programs["k8s.io/kubernetes"] || first[1] != "tested" {
		t.Errorf("the first row of Kubernetes is %v, the cluster of the tests has %s", first, programs["k8s.io/kubernetes"])
	}
	old := oldKubernetes.FindStringSubmatch(readFile(t, "Makefile"))
	if second := rows(t, section(t, document, "## Kubernetes"))[1]; old == nil || second[0] != old[1] || second[1] != "tested" {
		t.Errorf("the second row of Kubernetes is %v, make e2e-1.34 has %v", second, old)
	}

	sidecars := map[string]string{}
	tested := map[string]bool{}
	for _, row := range rows(t, section(t, document, "## Sidecars and CRDs")) {
		name, _, _ := strings.Cut(row[0], " (")
		sidecars[name], tested[name] = row[1], row[2] == "tested"
	}
	want := deployed(t)
	want["snapshot CRDs"] = modules["github.com/kubernetes-csi/external-snapshotter/client/v8"]
	if diff := cmp.Diff(want, sidecars); diff != "" {
		t.Errorf("the sidecars in %s differ from those of the manifests (-manifests +document):\n%s", compatibility, diff)
	}
	// Tested is what the test cluster builds in this version.
	for name, version := range want {
		here := name == "snapshot CRDs"
		for module, v := range programs {
			upstream := strings.TrimPrefix(strings.TrimPrefix(name, "csi-"), "snapshot-")
			here = here || v == version && strings.Contains(path.Base(path.Dir(module)), upstream) || name == "snapshot-controller" && v == version && strings.Contains(module, "external-snapshotter")
		}
		if here != tested[name] {
			t.Errorf("%s says tested is %v for %s %s, built for the tests is %v", compatibility, tested[name], name, version, here)
		}
	}

	if first := rows(t, section(t, document, "## Sources of credentials"))[0]; first[0] != "HashiCorp Vault "+programs["github.com/hashicorp/vault"] {
		t.Errorf("the first source of credentials is %v, the tests build Vault %s", first, programs["github.com/hashicorp/vault"])
	}

	spec := rows(t, section(t, document, "## CSI"))[0]
	if spec[1] != modules["github.com/container-storage-interface/spec"] || !strings.Contains(spec[2], "csi-sanity "+modules["github.com/kubernetes-csi/csi-test/v5"]) {
		t.Errorf("CSI is %v; go.mod has %s and csi-test %s", spec, modules["github.com/container-storage-interface/spec"], modules["github.com/kubernetes-csi/csi-test/v5"])
	}
	for _, row := range rows(t, section(t, document, "## Building")) {
		if row[0] == "Go" && !strings.HasPrefix(modules["go"]+".", row[1]+".") {
			t.Errorf("Go is %s, go.mod says %s", row[1], modules["go"])
		}
	}
}

// What the guides say of versions is what the page of versions says.
func TestGuidesNameTheTestedKubernetes(t *testing.T) {
	minor := strings.TrimPrefix(built(t)["k8s.io/kubernetes"], "v")
	minor = minor[:strings.LastIndexByte(minor, '.')]
	for _, file := range []string{"docs/guides/install.md", "README.md", "docs/releases/v0.1.0.md"} {
		if !strings.Contains(readFile(t, file), minor) {
			t.Errorf("%s does not name Kubernetes %s, which the tests run on", file, minor)
		}
	}
}
