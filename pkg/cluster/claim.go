package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// LeaseName is the Lease whose holder is the one node that Holdfast runs on.
const LeaseName = "holdfast-single-node"

// ClaimNode makes node the one that Holdfast of this namespace runs on, for good:
// the Lease is never renewed and never expires, because volumes stay where they
// are also while the node is off. A node that has the claim already has it still.
//
// It is volume.ErrInUse if another node has it, volume.ErrUnavailable if the API
// server could not be asked and may be later, and volume.ErrPrecondition if it
// refuses. It does not limit its rate: a caller that asks again waits in between.
func (c *Client) ClaimNode(ctx context.Context, node string) error {
	if err := c.claim(ctx, node); err != nil {
		return fmt.Errorf("claim namespace %s for node %s: %w", c.pod.Namespace, node, err)
	}
	return nil
}

func (c *Client) claim(ctx context.Context, node string) error {
	now := metav1.NewMicroTime(time.Now())
	lease := &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{
			Name: LeaseName, Namespace: c.pod.Namespace,
			Labels: map[string]string{"app.kubernetes.io/name": "holdfast"},
		},
		Spec: coordinationv1.LeaseSpec{HolderIdentity: &node, AcquireTime: &now},
	}
	err := c.leases.Post().Namespace(c.pod.Namespace).Resource("leases").Body(lease).Do(ctx).Error()
	if err == nil {
		return nil
	}
	if !apierrors.IsAlreadyExists(err) {
		return refused(ctx, "create", err)
	}
	var have coordinationv1.Lease
	if err := c.leases.Get().Namespace(c.pod.Namespace).Resource("leases").Name(LeaseName).Do(ctx).Into(&have); err != nil {
		return refused(ctx, "get", err)
	}
	switch holder := have.Spec.HolderIdentity; {
	case holder == nil || *holder == "":
		return fmt.Errorf("%w: the Lease %s has no holder; remove it: %s", volume.ErrInUse, LeaseName, c.release())
	case *holder != node:
		return fmt.Errorf("%w: node %s has it, and this version of Holdfast serves one node; keep the DaemonSet on that node (nodeSelector), or, if that node and its volumes are gone for good: %s", volume.ErrInUse, *holder, c.release())
	}
	return nil
}

// release is the command that gives the claim back.
func (c *Client) release() string {
	return fmt.Sprintf("kubectl -n %s delete lease %s", c.pod.Namespace, LeaseName)
}

// refused sorts an error of the API server into what may pass and what will not.
func refused(ctx context.Context, verb string, err error) error {
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("%s lease %s: %w", verb, LeaseName, errors.Join(ctx.Err(), err))
	case apierrors.IsForbidden(err):
		return fmt.Errorf("%w: %s lease %s: %w; the pod's service account needs a Role that allows it", volume.ErrPrecondition, verb, LeaseName, err)
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err):
		return fmt.Errorf("%w: %s lease %s: %w", volume.ErrPrecondition, verb, LeaseName, err)
	}
	return fmt.Errorf("%w: %s lease %s: %w", volume.ErrUnavailable, verb, LeaseName, err)
}
