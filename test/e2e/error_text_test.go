package e2e

import (
	"regexp"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
)

// TestAClaimThatCannotBeSaysWhatToDo makes claims that no driver could serve, and
// reads what a user reads: the claim's events. Each must name what is wrong and
// what is allowed or to be done.
func TestAClaimThatCannotBeSaysWhatToDo(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	for name, c := range map[string]struct {
		class func(*storagev1.StorageClass)
		claim func(*corev1.PersistentVolumeClaim)
		says  string
	}{
		"parameter": {
			class: parameter("compression", "zstd"),
			says:  `InvalidArgument.*parameter "compression" is not known: known are pool, inodeRatio, sectorSize`,
		},
		"value": {
			class: parameter("sectorSize", "513"),
			says:  `InvalidArgument.*parameter sectorSize="513": want 512, 4096`,
		},
		"pool": {
			class: parameter("pool", "nvme"),
			says:  `InvalidArgument.*there is no pool "nvme" on this machine; set the class parameter pool to one of: default`,
		},
		"filesystem": {
			class: parameter("csi.storage.k8s.io/fstype", "btrfs"),
			says:  `InvalidArgument.*filesystem type "btrfs": supported are ext4 and xfs`,
		},
		"option": {
			class: func(class *storagev1.StorageClass) { class.MountOptions = []string{"noatime", "nobarrier"} },
			says:  `InvalidArgument.*nobarrier`,
		},
		"space": {
			claim: func(c *corev1.PersistentVolumeClaim) { c.Spec.Resources = storage("1Ti") },
			says:  `ResourceExhausted.*pool default has .* free, which is enough for promises of .*; delete volumes or snapshots, or enlarge the pool`,
		},
		"size": {
			claim: func(c *corev1.PersistentVolumeClaim) { c.Spec.Resources = storage("100Ti") },
			says:  `OutOfRange.*64 TiB`,
		},
		"sharing": {
			claim: func(c *corev1.PersistentVolumeClaim) {
				c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany}
			},
			says: `InvalidArgument.*MULTI_NODE_MULTI_WRITER`,
		},
	} {
		s.claim(wrong(s, name, storagev1.VolumeBindingImmediate, c.class, c.claim))
		event := s.awaitEvent(name, "ProvisioningFailed", `(?s)`+c.says)
		t.Logf("%s: %s", name, event.Message)
	}
}

// TestAPodWhoseClassIsWrongSaysWhatToDo is the same for claims that wait for their
// pod. The scheduler looks for capacity first, which a class that is wrong must not
// seem to lack.
func TestAPodWhoseClassIsWrongSaysWhatToDo(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	for name, c := range map[string]struct{ key, value, says string }{
		"parameter":  {"compression", "zstd", `parameter "compression" is not known: known are pool, inodeRatio, sectorSize`},
		"pool":       {"pool", "nvme", `there is no pool "nvme" on this machine; set the class parameter pool to one of: default`},
		"filesystem": {"csi.storage.k8s.io/fstype", "btrfs", `filesystem type "btrfs": supported are ext4 and xfs`},
	} {
		s.claim(wrong(s, name, storagev1.VolumeBindingWaitForFirstConsumer, parameter(c.key, c.value), nil))
		s.create(idle(name, name))
		event := s.awaitEvent(name, "ProvisioningFailed", regexp.QuoteMeta(c.says))
		t.Logf("%s: %s", name, event.Message)
	}
}

func parameter(key, value string) func(*storagev1.StorageClass) {
	return func(class *storagev1.StorageClass) { class.Parameters[key] = value }
}

// wrong is a claim of a class of its own.
func wrong(s *scene, name string, mode storagev1.VolumeBindingMode, class func(*storagev1.StorageClass), claim func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	s.t.Helper()
	made := newClaim(name, s.class(classExt4, name, func(c *storagev1.StorageClass) {
		c.VolumeBindingMode = &mode
		if class != nil {
			class(c)
		}
	}), small)
	if claim != nil {
		claim(made)
	}
	return made
}
