package manifest

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func spec() Spec {
	return Spec{
		Name: "photos", Namespace: "home", Claim: "gallery", StorageClass: "holdfast", ReclaimPolicy: Retain,
		AccessMode: "ReadWriteOnce", Driver: "csi.holdfast.dev", Topology: map[string]string{"topology.csi.holdfast.dev/pool-0f": "yes"},
		Volume: volume.Volume{ID: "vol.0f.1", Size: 1536 * volume.MiB, Format: volume.Format{Mode: volume.ModeFilesystem, FSType: volume.XFS, SectorSize: 4096}},
	}
}

// Kubernetes reads what was meant, and knows every field.
func TestKubernetesReadsTheObjects(t *testing.T) {
	text, err := YAML(spec().Objects())
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(strings.TrimPrefix(text, "---\n"), "---\n")
	if len(parts) != 2 {
		t.Fatalf("%d documents:\n%s", len(parts), text)
	}
	var pv corev1.PersistentVolume
	var claim corev1.PersistentVolumeClaim
	if err := yaml.UnmarshalStrict([]byte(parts[0]), &pv); err != nil {
		t.Fatal(err)
	}
	if err := yaml.UnmarshalStrict([]byte(parts[1]), &claim); err != nil {
		t.Fatal(err)
	}
	mode, class := corev1.PersistentVolumeFilesystem, "holdfast"
	size := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1536Mi")}
	wantVolume := corev1.PersistentVolume{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "PersistentVolume"},
		ObjectMeta: metav1.ObjectMeta{Name: "photos", Annotations: map[string]string{"pv.kubernetes.io/provisioned-by": "csi.holdfast.dev"}},
		Spec: corev1.PersistentVolumeSpec{
			Capacity: size, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, VolumeMode: &mode,
			PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain, StorageClassName: class,
			ClaimRef:               &corev1.ObjectReference{APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: "home", Name: "gallery"},
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "csi.holdfast.dev", VolumeHandle: "vol.0f.1", FSType: "xfs"}},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "topology.csi.holdfast.dev/pool-0f", Operator: corev1.NodeSelectorOpIn, Values: []string{"yes"}}},
			}}}},
		},
	}
	wantClaim := corev1.PersistentVolumeClaim{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "PersistentVolumeClaim"},
		ObjectMeta: metav1.ObjectMeta{Name: "gallery", Namespace: "home"},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, VolumeMode: &mode, StorageClassName: &class,
			VolumeName: "photos", Resources: corev1.VolumeResourceRequirements{Requests: size},
		},
	}
	if diff := cmp.Diff(wantVolume, pv); diff != "" {
		t.Errorf("the volume differs (-want +have):\n%s", diff)
	}
	if diff := cmp.Diff(wantClaim, claim); diff != "" {
		t.Errorf("the claim differs (-want +have):\n%s", diff)
	}
}

func TestABlockVolumeHasNoFilesystem(t *testing.T) {
	s := spec()
	s.Volume.Format = volume.Format{Mode: volume.ModeBlock, SectorSize: 512}
	s.Volume.Size = 4096 + volume.GiB
	pv, claim := s.Objects()
	if pv.Spec.VolumeMode != "Block" || claim.Spec.VolumeMode != "Block" || pv.Spec.CSI.FSType != "" {
		t.Errorf("%+v %+v", pv.Spec, claim.Spec)
	}
	if q := resource.MustParse(pv.Spec.Capacity["storage"]); q.Value() != int64(s.Volume.Size) {
		t.Errorf("the size is %s, want %d", q.String(), s.Volume.Size)
	}
}

func TestWhatKubernetesWouldRefuseIsRefused(t *testing.T) {
	if err := spec().Check(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Spec){
		"an upper-case name":       func(s *Spec) { s.Name = "Photos" },
		"no name":                  func(s *Spec) { s.Name = "" },
		"a name that breaks out":   func(s *Spec) { s.Claim = "a\nkind: Secret" },
		"a path":                   func(s *Spec) { s.Name = "../photos" },
		"a namespace with a dot":   func(s *Spec) { s.Namespace = "a.b" },
		"a long name":              func(s *Spec) { s.Name = strings.Repeat("a", 254) },
		"a class with a space":     func(s *Spec) { s.StorageClass = "my class" },
		"a policy that is not":     func(s *Spec) { s.ReclaimPolicy = "Recycle" },
		"a mode for several nodes": func(s *Spec) { s.AccessMode = "ReadWriteMany" },
	} {
		s := spec()
		change(&s)
		if err := s.Check(); !errors.Is(err, volume.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
