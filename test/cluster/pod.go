package cluster

import (
	"context"
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// containerID is the runtime's id of a container, without the runtime's name.
func containerID(ctx context.Context, client kubernetes.Interface, namespace, pod, container string) (string, error) {
	p, err := client.CoreV1().Pods(namespace).Get(ctx, pod, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	for _, status := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		if status.Name == container {
			_, id, _ := strings.Cut(status.ContainerID, "://")
			return id, nil
		}
	}
	return "", fmt.Errorf("pod %s/%s has no container %s", namespace, pod, container)
}
