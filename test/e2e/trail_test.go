package e2e

import (
	"context"
	"maps"
	"sync"

	snapv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	watchtools "k8s.io/client-go/tools/watch"
	"k8s.io/klog/v2"
)

// trail remembers every volume and snapshot that a namespace ever had, so that
// after it one can look for what they left.
type trail struct {
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu        sync.Mutex
	volumes   map[string]string // name of the PersistentVolume by volume handle
	snapshots map[string]string // name of the VolumeSnapshotContent by snapshot handle
}

// follow watches a namespace until stop.
func follow(a access, ns string) *trail {
	ctx, cancel := context.WithCancel(context.Background())
	t := &trail{cancel: cancel, volumes: map[string]string{}, snapshots: map[string]string{}}
	t.watch(ctx, all(a.kube.CoreV1().PersistentVolumes(), "volumes"), &corev1.PersistentVolume{}, func(o runtime.Object) {
		if pv, ok := o.(*corev1.PersistentVolume); ok && ofNamespace(pv, ns) && pv.Spec.CSI != nil {
			t.volumes[pv.Spec.CSI.VolumeHandle] = pv.Name
		}
	})
	t.watch(ctx, all(a.snap.SnapshotV1().VolumeSnapshotContents(), "snapshot contents"), &snapv1.VolumeSnapshotContent{}, func(o runtime.Object) {
		if c, ok := o.(*snapv1.VolumeSnapshotContent); ok && c.Spec.VolumeSnapshotRef.Namespace == ns && snapshotHandle(c) != "" {
			t.snapshots[snapshotHandle(c)] = c.Name
		}
	})
	return t
}

func (t *trail) watch(ctx context.Context, w watched, example runtime.Object, noteLocked func(runtime.Object)) {
	_, _, events, ended := watchtools.NewIndexerInformerWatcherWithLogger(klog.FromContext(ctx), w.ListWatch, example)
	t.running.Go(func() {
		for {
			select {
			case e := <-events.ResultChan():
				t.mu.Lock()
				noteLocked(e.Object)
				t.mu.Unlock()
			case <-ctx.Done():
				// It does not close the channel.
				events.Stop()
				<-ended
				return
			}
		}
	})
}

// stop ends the watches, and returns what was seen.
func (t *trail) stop() (volumes, snapshots map[string]string) {
	t.cancel()
	t.running.Wait()
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.volumes), maps.Clone(t.snapshots)
}

func ofNamespace(pv *corev1.PersistentVolume, ns string) bool {
	return pv.Spec.ClaimRef != nil && pv.Spec.ClaimRef.Namespace == ns
}

// snapshotHandle is the driver's id of a snapshot, "" as long as it has none.
func snapshotHandle(c *snapv1.VolumeSnapshotContent) string {
	switch {
	case c.Status != nil && c.Status.SnapshotHandle != nil:
		return *c.Status.SnapshotHandle
	case c.Spec.Source.SnapshotHandle != nil:
		return *c.Spec.Source.SnapshotHandle
	}
	return ""
}
