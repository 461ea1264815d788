package deploy

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/holdfast-csi/holdfast/pkg/filesystem"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// hereDocument is what a command is given to read.
var hereDocument = regexp.MustCompile(`(?ms)<<'?(EOF|YAML)'?\n(.*?)^(?:EOF|YAML)$`)

// shellVariable stands in a snippet for what an earlier command has found out.
var shellVariable = regexp.MustCompile(`\$[A-Z]+`)

// guideObjects are the objects that all guides and the README offer, by document.
func guideObjects(t *testing.T) map[string][]runtime.Object {
	t.Helper()
	paths, err := filepath.Glob(repository + "/docs/guides/*.md")
	if err != nil || len(paths) == 0 {
		t.Fatalf("there are no guides: %v", err)
	}
	found := map[string][]runtime.Object{}
	for _, path := range append(paths, repository+"/README.md") {
		text := readFile(t, path)
		var snippets []string
		for _, m := range fence.FindAllStringSubmatch(text, -1) {
			if !strings.HasPrefix(m[1], "# ") { // a file of an overlay, or values of the chart
				snippets = append(snippets, m[1])
			}
		}
		for _, m := range hereDocument.FindAllStringSubmatch(text, -1) {
			snippets = append(snippets, shellVariable.ReplaceAllString(m[2], "found-out"))
		}
		for _, s := range snippets {
			found[filepath.Base(path)] = append(found[filepath.Base(path)], decode(t, path, []byte(s))...)
		}
	}
	return found
}

// What a reader copies from a guide is decoded strictly, and names classes,
// parameters and mount options that exist.
func TestTheObjectsOfTheGuidesAreRight(t *testing.T) {
	classes := map[string]bool{"": true}
	for _, c := range of[*storagev1.StorageClass](render(t, singleNode)) {
		classes[c.Name] = true
	}
	parameters := readFile(t, repository+"/docs/reference/parameters.md")
	documented := func(document, kind string, given map[string]string) {
		for p := range given {
			if !strings.HasPrefix(p, "csi.storage.k8s.io/") && !strings.Contains(parameters, "| `"+p+"` |") {
				t.Errorf("%s: a %s has the parameter %s, which nobody documents", document, kind, p)
			}
		}
	}
	objects := 0
	for document, list := range guideObjects(t) {
		objects += len(list)
		own := map[string]bool{}
		for _, c := range of[*storagev1.StorageClass](list) {
			own[c.Name] = true
			documented(document, "StorageClass", c.Parameters)
			if c.Provisioner != driverName {
				t.Errorf("%s: class %s is of %s", document, c.Name, c.Provisioner)
			}
			fsType := volume.FSType(c.Parameters["csi.storage.k8s.io/fstype"])
			if fsType == "" {
				fsType = volume.Ext4
			}
			if _, err := filesystem.ParseMountFlags(fsType, c.MountOptions); err != nil {
				t.Errorf("%s: class %s: %v", document, c.Name, err)
			}
		}
		for _, c := range of[*snapshotv1.VolumeSnapshotClass](list) {
			documented(document, "VolumeSnapshotClass", c.Parameters)
		}
		for _, c := range of[*corev1.PersistentVolumeClaim](list) {
			if name := c.Spec.StorageClassName; name == nil || !classes[*name] && !own[*name] {
				t.Errorf("%s: claim %s has no class, or one that does not exist", document, c.Name)
			}
		}
	}
	if objects < 20 {
		t.Errorf("only %d objects were found in the guides", objects)
	}
}
