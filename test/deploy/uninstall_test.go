package deploy

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"testing"

	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// contents are the objects of a kustomization, CRDs too, as KIND NAME.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		t.Fatalf("render %s: %v", dir, err)
	}
	kinds := map[string]string{}
	for _, r := range resources.Resources() {
		kinds[fmt.Sprintf("%s %s/%s", r.GetKind(), r.GetNamespace(), r.GetName())] = r.GetKind()
	}
	return kinds
}

// What holds data, or says where data is, stays when the driver goes.
var kept = []string{"Namespace", "CSIDriver", "StorageClass", "VolumeSnapshotClass", "ConfigMap", "CustomResourceDefinition", "PersistentVolume", "PersistentVolumeClaim"}

var deleted = regexp.MustCompile(`(?m)^kubectl delete -k (\S+)`)

func TestTheGuideDeletesNothingThatHoldsData(t *testing.T) {
	commands := deleted.FindAllStringSubmatch(guide(t, "uninstall.md"), -1)
	if len(commands) == 0 {
		t.Fatal("uninstall.md removes nothing that kubectl installed")
	}
	gone := map[string]string{}
	for _, c := range commands {
		found := contents(t, repository+"/"+c[1])
		for name, kind := range found {
			if slices.Contains(kept, kind) {
				t.Errorf("%s deletes %s", c[0], name)
			}
		}
		maps.Copy(gone, found)
	}
	// Nothing else stays behind.
	for _, overlay := range []string{singleNode, identityOverlay} {
		for name, kind := range contents(t, overlay) {
			if gone[name] == "" && !slices.Contains(kept, kind) {
				t.Errorf("%s stays", name)
			}
		}
	}
}

// Deleting a CRD deletes all its objects, of every driver: whoever deletes an overlay
// means Holdfast.
func TestNoOverlayHasTheCRDs(t *testing.T) {
	for _, overlay := range []string{singleNode, microk8s, identityOverlay} {
		for name, kind := range contents(t, overlay) {
			if kind == "CustomResourceDefinition" {
				t.Errorf("kubectl delete -k %s deletes %s", overlay, name)
			}
		}
	}
}
