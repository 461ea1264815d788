package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
)

// The data source, as in the CRD of upstream's test.
const (
	sourceGroup = "hello.example.com"
	sourceKind  = "Hello"
)

// selectedNode is what the scheduler writes onto a claim that waits for its pod.
const selectedNode = "volume.kubernetes.io/selected-node"

// mountPath is where the volume is in the pod that fills it.
const mountPath = "/mnt"

type controller struct {
	client           kubernetes.Interface
	objects          dynamic.Interface
	namespace, image string
}

// lookAtClaims brings every claim that is ours one step further. Each step can be
// made again.
func (c controller) lookAtClaims(ctx context.Context) error {
	claims, err := c.client.CoreV1().PersistentVolumeClaims("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	var errs []error
	for i := range claims.Items {
		claim := &claims.Items[i]
		ref := claim.Spec.DataSourceRef
		if ref == nil || ref.Kind != sourceKind || ref.APIGroup == nil || *ref.APIGroup != sourceGroup {
			continue
		}
		if err := c.advance(ctx, claim); err != nil {
			errs = append(errs, fmt.Errorf("populate %s/%s: %w", claim.Namespace, claim.Name, err))
		}
	}
	return errors.Join(errs...)
}

func (c controller) advance(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	own, pod := "prime-"+string(claim.UID), "populate-"+string(claim.UID)
	if claim.Status.Phase == corev1.ClaimBound || claim.DeletionTimestamp != nil {
		return c.cleanUp(ctx, own, pod)
	}
	ready, err := c.placed(ctx, claim)
	if err != nil || !ready {
		return err
	}
	if err := c.makeClaim(ctx, claim, own); err != nil {
		return err
	}
	done, err := c.fill(ctx, claim, own, pod)
	if err != nil || !done {
		return err
	}
	return c.handOver(ctx, claim, own)
}

// placed reports whether the volume may be made: at once, or on the node that the
// scheduler chose, as the class says.
func (c controller) placed(ctx context.Context, claim *corev1.PersistentVolumeClaim) (bool, error) {
	if claim.Spec.StorageClassName == nil {
		return false, errors.New("it has no class")
	}
	class, err := c.client.StorageV1().StorageClasses().Get(ctx, *claim.Spec.StorageClassName, metav1.GetOptions{})
	if err != nil {
		return false, err
	}
	waits := class.VolumeBindingMode != nil && *class.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer
	return !waits || claim.Annotations[selectedNode] != "", nil
}

// makeClaim makes the claim that gets the volume first.
func (c controller) makeClaim(ctx context.Context, claim *corev1.PersistentVolumeClaim, name string) error {
	if mode := claim.Spec.VolumeMode; mode != nil && *mode == corev1.PersistentVolumeBlock {
		return errors.New("a raw block volume has no files")
	}
	own := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: c.namespace},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: claim.Spec.AccessModes, Resources: claim.Spec.Resources,
			StorageClassName: claim.Spec.StorageClassName, VolumeMode: claim.Spec.VolumeMode,
		},
	}
	if node := claim.Annotations[selectedNode]; node != "" {
		own.Annotations = map[string]string{selectedNode: node}
	}
	_, err := c.client.CoreV1().PersistentVolumeClaims(c.namespace).Create(ctx, own, metav1.CreateOptions{})
	return ignoreExists(err)
}

// fill reports whether the pod has written the file, and starts it if it must.
func (c controller) fill(ctx context.Context, claim *corev1.PersistentVolumeClaim, own, name string) (bool, error) {
	pods := c.client.CoreV1().Pods(c.namespace)
	pod, err := pods.Get(ctx, name, metav1.GetOptions{})
	if err == nil {
		return pod.Status.Phase == corev1.PodSucceeded, nil
	}
	if !apierrors.IsNotFound(err) {
		return false, err
	}
	hellos := schema.GroupVersionResource{Group: sourceGroup, Version: "v1alpha1", Resource: "hellos"}
	hello, err := c.objects.Resource(hellos).Namespace(claim.Namespace).Get(ctx, claim.Spec.DataSourceRef.Name, metav1.GetOptions{})
	if err != nil {
		return false, err
	}
	file, _, _ := unstructured.NestedString(hello.Object, "spec", "fileName") // the CRD demands both
	contents, _, _ := unstructured.NestedString(hello.Object, "spec", "fileContents")
	_, err = pods.Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: c.namespace},
		Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyNever,
			NodeName:      claim.Annotations[selectedNode],
			Containers: []corev1.Container{{
				Name: "populate", Image: c.image, ImagePullPolicy: corev1.PullIfNotPresent,
				Args:         []string{"--mode=populate", "--file-name=" + mountPath + "/" + file, "--file-contents=" + contents},
				VolumeMounts: []corev1.VolumeMount{{Name: "target", MountPath: mountPath}},
			}},
			Volumes: []corev1.Volume{{Name: "target", VolumeSource: corev1.VolumeSource{
				PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: own},
			}}},
		},
	}, metav1.CreateOptions{})
	return false, ignoreExists(err)
}

// handOver makes the volume the user's claim's.
func (c controller) handOver(ctx context.Context, claim *corev1.PersistentVolumeClaim, own string) error {
	first, err := c.client.CoreV1().PersistentVolumeClaims(c.namespace).Get(ctx, own, metav1.GetOptions{})
	if err != nil {
		return err
	}
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"claimRef": map[string]any{
		"namespace": claim.Namespace, "name": claim.Name, "uid": claim.UID, "resourceVersion": claim.ResourceVersion,
	}}})
	if err != nil {
		return err
	}
	_, err = c.client.CoreV1().PersistentVolumes().Patch(ctx, first.Spec.VolumeName, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	return err
}

// cleanUp removes what was needed on the way.
func (c controller) cleanUp(ctx context.Context, own, pod string) error {
	return errors.Join(
		ignoreAbsent(c.client.CoreV1().Pods(c.namespace).Delete(ctx, pod, metav1.DeleteOptions{})),
		ignoreAbsent(c.client.CoreV1().PersistentVolumeClaims(c.namespace).Delete(ctx, own, metav1.DeleteOptions{})),
	)
}

func ignoreExists(err error) error {
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

func ignoreAbsent(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
