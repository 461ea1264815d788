// Package manifest writes the Kubernetes objects for a volume that exists already: a
// PersistentVolume that is statically provisioned, and the claim that is bound to it.
//
// It promises that the two name each other, so that no other claim gets the volume,
// and that the volume can be grown, snapshotted, cloned and deleted like one that was
// provisioned for a claim. It refuses names that Kubernetes would refuse. It speaks
// to nobody.
package manifest

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"

	"sigs.k8s.io/yaml"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// Spec says what the objects are for.
type Spec struct {
	// Name of the PersistentVolume.
	Name string
	// Namespace and Claim name the PersistentVolumeClaim.
	Namespace, Claim string
	// StorageClass that both belong to. It need not have made the volume; whether the
	// claim can grow is what it says.
	StorageClass string
	// ReclaimPolicy is Retain or Delete.
	ReclaimPolicy string
	// AccessMode is a mode as Kubernetes calls it, such as ReadWriteOnce.
	AccessMode string
	Driver     string
	// Topology is where the volume can be reached: all of it must hold.
	Topology map[string]string
	Volume   volume.Volume
}

// The values that a Spec may have.
const (
	Retain = "Retain"
	Delete = "Delete"
)

// accessModes are those of a volume on one node.
func accessModes() []string {
	return []string{"ReadWriteOnce", "ReadWriteOncePod", "ReadOnlyMany"}
}

// meta is the part of ObjectMeta that is written.
type meta struct {
	Name        string            `json:"name"`
	Namespace   string            `json:"namespace,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// PersistentVolume is the object of that kind, as far as it is written.
type PersistentVolume struct {
	APIVersion string     `json:"apiVersion"`
	Kind       string     `json:"kind"`
	Metadata   meta       `json:"metadata"`
	Spec       volumeSpec `json:"spec"`
}

type volumeSpec struct {
	Capacity         map[string]string `json:"capacity"`
	AccessModes      []string          `json:"accessModes"`
	VolumeMode       string            `json:"volumeMode"`
	ReclaimPolicy    string            `json:"persistentVolumeReclaimPolicy"`
	StorageClassName string            `json:"storageClassName"`
	ClaimRef         claimRef          `json:"claimRef"`
	CSI              csiSource         `json:"csi"`
	NodeAffinity     affinity          `json:"nodeAffinity"`
}

type claimRef struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Namespace  string `json:"namespace"`
	Name       string `json:"name"`
}

type csiSource struct {
	Driver       string `json:"driver"`
	VolumeHandle string `json:"volumeHandle"`
	FSType       string `json:"fsType,omitempty"`
}

type affinity struct {
	Required selector `json:"required"`
}

type selector struct {
	Terms []term `json:"nodeSelectorTerms"`
}

type term struct {
	Expressions []expression `json:"matchExpressions"`
}

type expression struct {
	Key      string   `json:"key"`
	Operator string   `json:"operator"`
	Values   []string `json:"values"`
}

// PersistentVolumeClaim is the object of that kind, as far as it is written.
type PersistentVolumeClaim struct {
	APIVersion string    `json:"apiVersion"`
	Kind       string    `json:"kind"`
	Metadata   meta      `json:"metadata"`
	Spec       claimSpec `json:"spec"`
}

type claimSpec struct {
	AccessModes      []string  `json:"accessModes"`
	VolumeMode       string    `json:"volumeMode"`
	StorageClassName string    `json:"storageClassName"`
	VolumeName       string    `json:"volumeName"`
	Resources        resources `json:"resources"`
}

type resources struct {
	Requests map[string]string `json:"requests"`
}

// provisionedBy makes external-provisioner delete the volume when the object goes
// and its reclaim policy is Delete, as it does for those that it made.
const provisionedBy = "pv.kubernetes.io/provisioned-by"

var (
	subdomain = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$`)
	label     = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`)
)

// Check is volume.ErrInvalid if Kubernetes would refuse what s names.
func (s Spec) Check() error {
	const maxSubdomain, maxLabel = 253, 63
	for what, name := range map[string]string{"name": s.Name, "claim": s.Claim, "storage class": s.StorageClass} {
		if !subdomain.MatchString(name) || len(name) > maxSubdomain {
			return fmt.Errorf("%w: %s %q: want at most %d of a-z, 0-9, - and ., as Kubernetes names objects", volume.ErrInvalid, what, name, maxSubdomain)
		}
	}
	if !label.MatchString(s.Namespace) || len(s.Namespace) > maxLabel {
		return fmt.Errorf("%w: namespace %q: want at most %d of a-z, 0-9 and -", volume.ErrInvalid, s.Namespace, maxLabel)
	}
	if s.ReclaimPolicy != Retain && s.ReclaimPolicy != Delete {
		return fmt.Errorf("%w: reclaim policy %q: want %s or %s", volume.ErrInvalid, s.ReclaimPolicy, Retain, Delete)
	}
	if slices.Contains(accessModes(), s.AccessMode) {
		return nil
	}
	return fmt.Errorf("%w: access mode %q: want one of %v", volume.ErrInvalid, s.AccessMode, accessModes())
}

// Objects are the two objects of a volume.
func (s Spec) Objects() (PersistentVolume, PersistentVolumeClaim) {
	size := map[string]string{"storage": quantity(s.Volume.Size)}
	mode := "Filesystem"
	if s.Volume.Format.Mode == volume.ModeBlock {
		mode = "Block"
	}
	t := term{Expressions: []expression{}}
	for _, key := range slices.Sorted(maps.Keys(s.Topology)) {
		t.Expressions = append(t.Expressions, expression{key, "In", []string{s.Topology[key]}})
	}
	pv := PersistentVolume{
		APIVersion: "v1", Kind: "PersistentVolume",
		Metadata: meta{Name: s.Name, Annotations: map[string]string{provisionedBy: s.Driver}},
		Spec: volumeSpec{
			Capacity: size, AccessModes: []string{s.AccessMode}, VolumeMode: mode,
			ReclaimPolicy: s.ReclaimPolicy, StorageClassName: s.StorageClass,
			ClaimRef:     claimRef{"v1", "PersistentVolumeClaim", s.Namespace, s.Claim},
			CSI:          csiSource{s.Driver, string(s.Volume.ID), string(s.Volume.Format.FSType)},
			NodeAffinity: affinity{selector{[]term{t}}},
		},
	}
	claim := PersistentVolumeClaim{
		APIVersion: "v1", Kind: "PersistentVolumeClaim",
		Metadata: meta{Name: s.Claim, Namespace: s.Namespace},
		Spec: claimSpec{
			AccessModes: []string{s.AccessMode}, VolumeMode: mode, StorageClassName: s.StorageClass,
			VolumeName: s.Name, Resources: resources{size},
		},
	}
	return pv, claim
}

// quantity is a size as Kubernetes writes it, exactly.
func quantity(b volume.Bytes) string {
	for _, u := range []struct {
		size   volume.Bytes
		suffix string
	}{{volume.GiB, "Gi"}, {volume.MiB, "Mi"}, {volume.KiB, "Ki"}} {
		if b%u.size == 0 {
			return strconv.FormatInt(int64(b/u.size), 10) + u.suffix
		}
	}
	return strconv.FormatInt(int64(b), 10)
}

// YAML is both objects as a stream that kubectl apply takes.
func YAML(pv PersistentVolume, claim PersistentVolumeClaim) (string, error) {
	out := ""
	for _, o := range []any{pv, claim} {
		text, err := yaml.Marshal(o)
		if err != nil {
			return "", fmt.Errorf("write the manifest: %w", err)
		}
		out += "---\n" + string(text)
	}
	return out, nil
}
