package e2e

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"
	"sigs.k8s.io/yaml"
)

// source is what every typed client can do; L is its type of list.
type source[L runtime.Object] interface {
	List(ctx context.Context, opts metav1.ListOptions) (L, error)
	Watch(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error)
}

// watched is a part of a source's objects, to be waited for.
type watched struct {
	*cache.ListWatch
	what   string
	single bool // so its deletion ends the wait
}

// one is the object of this name.
func one[L runtime.Object](c source[L], name string) watched {
	w := selected(c, name, func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, name).String()
	})
	w.single = true
	return w
}

// all is every object of the source.
func all[L runtime.Object](c source[L], what string) watched {
	return selected(c, what, func(*metav1.ListOptions) {})
}

func selected[L runtime.Object](c source[L], what string, choose func(*metav1.ListOptions)) watched {
	return watched{what: what, ListWatch: &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			choose(&o)
			return c.List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			choose(&o)
			return c.Watch(ctx, o)
		},
	}}
}

// await watches until ok says so of an object, and returns that. If it does not
// in time, or the object is deleted, the test ends and shows its last state.
// state completes the sentence "it did not become so that it ...".
func await[T runtime.Object](s *scene, timeout time.Duration, w watched, state string, ok func(T) bool) T {
	s.t.Helper()
	last, err := watchUntil(s.ctx, timeout, w, ok)
	if err != nil {
		s.t.Fatalf("%s: waited %s until it %s: %v\nits last state:\n%s", w.what, timeout, state, err, asYAML(last))
	}
	return last
}

var errDeleted = errors.New("it was deleted")

// watchUntil returns the last object that was seen even if it fails.
func watchUntil[T runtime.Object](ctx context.Context, timeout time.Duration, w watched, ok func(T) bool) (last T, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var example T
	_, err = watchtools.UntilWithSync(ctx, w.ListWatch, newLike(example), nil, func(e watch.Event) (bool, error) {
		object, is := e.Object.(T)
		if !is {
			return false, fmt.Errorf("an event %s about %T came", e.Type, e.Object)
		}
		last = object
		switch {
		case e.Type != watch.Deleted:
			return ok(object), nil
		case w.single:
			return false, errDeleted
		default:
			return false, nil
		}
	})
	return last, err
}

// gone watches until there is no such object. example is of its type.
func gone(ctx context.Context, timeout time.Duration, w watched, example runtime.Object) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var last runtime.Object
	_, err := watchtools.UntilWithSync(ctx, w.ListWatch, example,
		func(store cache.Store) (bool, error) {
			for _, o := range store.List() {
				last, _ = o.(runtime.Object)
			}
			return last == nil, nil
		},
		func(e watch.Event) (bool, error) {
			last = e.Object
			return e.Type == watch.Deleted, nil
		})
	if err != nil {
		return fmt.Errorf("%s: waited %s until it is gone: %w\nits last state:\n%s", w.what, timeout, err, asYAML(last))
	}
	return nil
}

// awaitEvent waits for an event about an object of this scene whose message
// matches text, a regular expression.
func (s *scene) awaitEvent(object, reason, text string) *corev1.Event {
	s.t.Helper()
	message := regexp.MustCompile(text)
	return await(s, aWhile, all(s.kube.CoreV1().Events(s.ns), "events of "+s.ns),
		fmt.Sprintf("has one about %s, %s, that says %q", object, reason, text),
		func(e *corev1.Event) bool {
			return e.InvolvedObject.Name == object && e.Reason == reason && message.MatchString(e.Message)
		})
}

func asYAML(o runtime.Object) string {
	if isNil(o) {
		return "(nobody has seen it)"
	}
	if a, err := meta.Accessor(o); err == nil {
		a.SetManagedFields(nil)
	}
	text, err := yaml.Marshal(o)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// newLike makes an empty object of the type of a nil pointer.
func newLike[T runtime.Object](example T) runtime.Object {
	return reflect.New(reflect.TypeOf(example).Elem()).Interface().(runtime.Object)
}

func isNil(o runtime.Object) bool { return o == nil || reflect.ValueOf(o).IsNil() }

// first is the first object that matches, nil if there is none.
func first[T runtime.Object](ctx context.Context, w watched, match func(T) bool) (found T, err error) {
	list, err := w.ListWithContext(ctx, metav1.ListOptions{})
	if err != nil {
		return found, fmt.Errorf("list %s: %w", w.what, err)
	}
	err = meta.EachListItem(list, func(o runtime.Object) error {
		if object, ok := o.(T); ok && isNil(found) && match(object) {
			found = object
		}
		return nil
	})
	return found, err
}
