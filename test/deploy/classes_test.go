package deploy

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/utils/ptr"
)

const driverName = "csi.holdfast.dev"

func TestEveryKustomizationRenders(t *testing.T) {
	for _, dir := range []string{kustomize + "base", singleNode, microk8s} {
		seen := map[string]bool{}
		for _, o := range render(t, dir) {
			m, err := meta.Accessor(o)
			if err != nil {
				t.Fatal(err)
			}
			key := o.GetObjectKind().GroupVersionKind().String() + " " + m.GetNamespace() + "/" + m.GetName()
			if seen[key] {
				t.Errorf("%s has %s twice", dir, key)
			}
			seen[key] = true
		}
	}
}

func TestTheCSIDriverObject(t *testing.T) {
	drivers := of[*storagev1.CSIDriver](render(t, singleNode))
	if len(drivers) != 1 || drivers[0].Name != driverName {
		t.Fatalf("these drivers are installed: %v", drivers)
	}
	s := drivers[0].Spec
	if *s.AttachRequired || !*s.StorageCapacity || !slices.Equal(s.VolumeLifecycleModes, []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent}) {
		t.Errorf("attachRequired %v, storageCapacity %v, modes %v", *s.AttachRequired, *s.StorageCapacity, s.VolumeLifecycleModes)
	}
	// Republishing makes kubelet apply fsGroup anew every minute.
	if s.RequiresRepublish != nil && *s.RequiresRepublish || len(s.TokenRequests) > 0 {
		t.Error("it asks for tokens or republishing, and has no use for either")
	}
}

func TestStorageClasses(t *testing.T) {
	parameters := readFile(t, repository+"/docs/reference/parameters.md")
	filesystems := map[string]string{}
	reclaim := map[string]corev1.PersistentVolumeReclaimPolicy{}
	for _, c := range of[*storagev1.StorageClass](render(t, singleNode)) {
		if c.Provisioner != driverName || c.AllowVolumeExpansion == nil || !*c.AllowVolumeExpansion ||
			c.VolumeBindingMode == nil || *c.VolumeBindingMode != storagev1.VolumeBindingWaitForFirstConsumer {
			t.Errorf("class %s: provisioner %s, expansion %v, binding %v", c.Name, c.Provisioner, c.AllowVolumeExpansion, c.VolumeBindingMode)
		}
		for p := range c.Parameters {
			if !strings.HasPrefix(p, "csi.storage.k8s.io/") && !strings.Contains(parameters, "| `"+p+"` |") {
				t.Errorf("class %s has the parameter %s, which nobody documents", c.Name, p)
			}
		}
		filesystems[c.Name] = c.Parameters["csi.storage.k8s.io/fstype"]
		reclaim[c.Name] = *c.ReclaimPolicy
	}
	if filesystems["holdfast"] != "ext4" || filesystems["holdfast-xfs"] != "xfs" || filesystems["holdfast-retain"] != "ext4" {
		t.Errorf("the classes have these filesystems: %v", filesystems)
	}
	if reclaim["holdfast"] != corev1.PersistentVolumeReclaimDelete || reclaim["holdfast-retain"] != corev1.PersistentVolumeReclaimRetain {
		t.Errorf("the classes have these policies: %v", reclaim)
	}
}

// eachClaim calls visit with every claim of a file, also with those inside
// templates.
func eachClaim(t *testing.T, file string, visit func(name string, spec corev1.PersistentVolumeClaimSpec)) {
	for _, o := range examples(t)[file] {
		switch o := o.(type) {
		case *corev1.PersistentVolumeClaim:
			visit(o.Name, o.Spec)
		case *appsv1.StatefulSet:
			for _, c := range o.Spec.VolumeClaimTemplates {
				visit(c.Name, c.Spec)
			}
		case *corev1.Pod:
			for _, v := range o.Spec.Volumes {
				if v.Ephemeral != nil {
					visit(v.Name, v.Ephemeral.VolumeClaimTemplate.Spec)
				}
			}
		}
	}
}

func TestExamplesNameClassesThatExist(t *testing.T) {
	objects := render(t, singleNode)
	classes, snapshotClasses := map[string]bool{}, map[string]bool{}
	for _, c := range of[*storagev1.StorageClass](objects) {
		classes[c.Name] = true
	}
	for _, c := range of[*snapshotv1.VolumeSnapshotClass](objects) {
		snapshotClasses[c.Name] = c.Driver == driverName
	}
	for file, objects := range examples(t) {
		claims := 0
		eachClaim(t, file, func(name string, spec corev1.PersistentVolumeClaimSpec) {
			claims++
			if spec.StorageClassName == nil || !classes[*spec.StorageClassName] {
				t.Errorf("%s: claim %s has the class %s, which does not exist", file, name, ptr.Deref(spec.StorageClassName, "<default>"))
			}
		})
		if claims == 0 {
			t.Errorf("%s claims nothing", file)
		}
		for _, s := range of[*snapshotv1.VolumeSnapshot](objects) {
			if s.Spec.VolumeSnapshotClassName == nil || !snapshotClasses[*s.Spec.VolumeSnapshotClassName] {
				t.Errorf("%s: snapshot %s has the class %s, which does not exist", file, s.Name, ptr.Deref(s.Spec.VolumeSnapshotClassName, "<default>"))
			}
		}
	}
}

// What an example refers to is made by an example, so that they work in the order
// that their comments say.
func TestExamplesReferToEachOther(t *testing.T) {
	claims, snapshots := map[string]string{}, map[string]string{}
	for file, objects := range examples(t) {
		for _, c := range of[*corev1.PersistentVolumeClaim](objects) {
			if other, twice := claims[c.Name]; twice {
				t.Errorf("%s and %s both have the claim %s", file, other, c.Name)
			}
			claims[c.Name] = file
		}
		for _, s := range of[*snapshotv1.VolumeSnapshot](objects) {
			snapshots[s.Name] = file
		}
	}
	for file, objects := range examples(t) {
		for _, s := range of[*snapshotv1.VolumeSnapshot](objects) {
			if source := ptr.Deref(s.Spec.Source.PersistentVolumeClaimName, "<none>"); claims[source] == "" {
				t.Errorf("%s: snapshot %s is of %s, which no example makes", file, s.Name, source)
			}
		}
		eachClaim(t, file, func(name string, spec corev1.PersistentVolumeClaimSpec) {
			if d := spec.DataSource; d != nil && claims[d.Name] == "" && snapshots[d.Name] == "" {
				t.Errorf("%s: claim %s is made from %s, which no example makes", file, name, d.Name)
			}
		})
		specs := []corev1.PodSpec{}
		for _, p := range of[*corev1.Pod](objects) {
			specs = append(specs, p.Spec)
		}
		for _, d := range of[*appsv1.Deployment](objects) {
			specs = append(specs, d.Spec.Template.Spec)
		}
		for _, s := range specs {
			for _, v := range s.Volumes {
				if c := v.PersistentVolumeClaim; c != nil && claims[c.ClaimName] != file {
					t.Errorf("%s: a pod uses the claim %s, which is not in the file", file, c.ClaimName)
				}
			}
		}
	}
}

func TestCRDsAreThoseOfTheModule(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "hack/snapshot-crds.sh", "--check")
	cmd.Dir = repository
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
