package podtoken

import (
	"fmt"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// The keys under which kubelet passes what it knows of the pod, in the volume
// context, if the CSIDriver object has podInfoOnMount (kubernetes
// pkg/volume/csi/csi_util.go). With podInfoOnMount kubelet's values take the place of
// what a pod writes under these keys in its volume attributes; without it the pod's own
// would be believed, so it must be set.
const (
	keyPrefix = "csi.storage.k8s.io/"

	KeyPodName        = keyPrefix + "pod.name"
	KeyPodNamespace   = keyPrefix + "pod.namespace"
	KeyPodUID         = keyPrefix + "pod.uid"
	KeyServiceAccount = keyPrefix + "serviceAccount.name"
)

// Pod is who a volume is published for.
type Pod struct {
	Namespace, Name, UID string
	ServiceAccount       string
}

// String is NAMESPACE/NAME.
func (p Pod) String() string { return p.Namespace + "/" + p.Name }

// PodOf reads the pod from the volume context of a NodePublishVolume. It is
// volume.ErrInvalid if kubelet does not say which pod it is.
func PodOf(volumeContext map[string]string) (Pod, error) {
	p := Pod{
		Namespace: volumeContext[KeyPodNamespace], Name: volumeContext[KeyPodName], UID: volumeContext[KeyPodUID],
		ServiceAccount: volumeContext[KeyServiceAccount],
	}
	for _, key := range []string{KeyPodNamespace, KeyPodName, KeyPodUID, KeyServiceAccount} {
		if volumeContext[key] == "" {
			return Pod{}, fmt.Errorf("%w: the volume context has no %s: set podInfoOnMount in the CSIDriver object", volume.ErrInvalid, key)
		}
	}
	return p, nil
}
