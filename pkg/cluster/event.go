package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Event is something that who looks at a pod should see.
type Event struct {
	// About is the pod; the zero value is the driver's own. To write events about
	// another one the driver needs the right to, in that namespace.
	About Pod
	// Warning says that something is wrong, or was.
	Warning bool
	// Reason is CamelCase and one of a fixed list.
	Reason string
	Text   string
}

// maxText is the length in bytes of the longest text of an event, which is that of
// events.k8s.io/v1.
const maxText = 1024

// record is an event with what is known of its delivery.
type record struct {
	Event
	name        string // of the Event object
	first, last time.Time
	count, sent int32 // how often it happened, and how often the API server was told it did
	sentAt      time.Time
	exists      bool // the API server has the object
}

// about is the pod of an event.
func (c *Client) about(r record) Pod {
	if r.About == (Pod{}) {
		return c.pod
	}
	return r.About
}

// object is the Event object of a record about a pod, reported by the driver's.
func (r record) object(pod, driver Pod) *corev1.Event {
	kind := corev1.EventTypeNormal
	if r.Warning {
		kind = corev1.EventTypeWarning
	}
	return &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: r.name, Namespace: pod.Namespace},
		InvolvedObject: corev1.ObjectReference{
			APIVersion: "v1", Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: types.UID(pod.UID),
		},
		Reason: r.Reason, Message: r.Text, Type: kind, Count: r.count,
		FirstTimestamp: metav1.NewTime(r.first), LastTimestamp: metav1.NewTime(r.last),
		Source:              corev1.EventSource{Component: component, Host: driver.Node},
		ReportingController: component, ReportingInstance: driver.Name,
	}
}

// component is who reports, in the words of kubectl: "From".
const component = "holdfast"

// deliver tells the API server what it does not know yet of a record. Called
// again after an answer that was lost, it makes no second object.
func (c *Client) deliver(ctx context.Context, r record) error {
	if r.exists {
		err := c.raise(ctx, r)
		if !apierrors.IsNotFound(err) {
			return err
		}
		// The API server forgets events, after an hour by default.
	}
	err := c.core.Post().Namespace(c.about(r).Namespace).Resource("events").Body(r.object(c.about(r), c.pod)).Do(ctx).Error()
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("create event %s: %w", r.name, err)
	}
	return nil
}

// raise sets the count of an event that is there.
func (c *Client) raise(ctx context.Context, r record) error {
	patch, err := json.Marshal(map[string]any{"count": r.count, "lastTimestamp": metav1.NewTime(r.last)})
	if err != nil {
		return fmt.Errorf("encode the patch of event %s: %w", r.name, err)
	}
	err = c.core.Patch(types.MergePatchType).Namespace(c.about(r).Namespace).Resource("events").Name(r.name).Body(patch).Do(ctx).Error()
	if err != nil {
		return fmt.Errorf("patch event %s: %w", r.name, err)
	}
	return nil
}

// hopeless says that trying again does not help.
func hopeless(err error) bool {
	return apierrors.IsForbidden(err) || apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) || apierrors.IsNotFound(err)
}
