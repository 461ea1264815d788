package e2e

import (
	"os"
	"path/filepath"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/holdfast-csi/holdfast/test/cluster"
)

// chartIdentity are the values that install identity volumes with the sources that the
// chart has by itself.
func chartIdentity() map[string]any {
	return map[string]any{"identity": map[string]any{"enabled": true}}
}

// identified are two pods that have their own tokens as files, from the source of the
// chart that needs no service.
type identified struct {
	stays, leaves *pod
	// mount is that of the first, as it sees it; set names the files that it had while
	// there was no driver.
	mount, set string
}

func (s *scene) identified() *identified {
	s.t.Helper()
	i := &identified{stays: s.run(s.withOwnToken("stays")), leaves: s.run(s.withOwnToken("leaves"))}
	i.mount = i.stays.identityMount()
	i.check()
	return i
}

// withOwnToken is a pod with its token for the audience vault in a file.
func (s *scene) withOwnToken(name string) *corev1.Pod {
	p := s.withCredentials(name, ask{source: "token", account: "default", credentials: "me: {}", files: "token: me.token"}, "idle")
	delete(p.Spec.Volumes[0].CSI.VolumeAttributes, "role")
	return p
}

// identityMount is the line of the table of mounts for what the pod sees.
func (p *pod) identityMount() string {
	p.s.t.Helper()
	return p.exec("sh", "-c", "grep ' "+credentialsDir+" ' /proc/self/mountinfo")
}

// identityFiles is the name of the directory that has the files which a pod sees now.
func (p *pod) identityFiles() string {
	p.s.t.Helper()
	return p.exec("/bin/busybox", "readlink", credentialsDir+"/..data")
}

// check demands that the pod which stays has its own token, on the mount that it has
// had from the first.
func (i *identified) check() {
	s, p := i.stays.s, i.stays
	s.t.Helper()
	review, err := s.kube.AuthenticationV1().TokenReviews().Create(s.ctx, &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: p.exec("cat", credentialsDir+"/token"), Audiences: []string{"vault"}},
	}, metav1.CreateOptions{})
	s.must(err)
	user := review.Status.User
	if !review.Status.Authenticated || user.Username != "system:serviceaccount:"+s.ns+":default" || len(user.Extra["authentication.kubernetes.io/pod-name"]) != 1 ||
		user.Extra["authentication.kubernetes.io/pod-name"][0] != p.name {
		s.t.Errorf("pod %s has no token of its own: %+v", p.name, review.Status)
	}
	if now := p.identityMount(); now != i.mount {
		s.t.Errorf("the mount of pod %s was %s and is %s", p.name, i.mount, now)
	}
}

// withoutDriver deletes the pod that leaves while there is no driver, and demands that
// it waits with its files until there is one, and that the other pod notices nothing.
func (i *identified) withoutDriver() {
	s := i.stays.s
	s.t.Helper()
	_, err := s.kube.StorageV1().CSIDrivers().Get(s.ctx, identityDriver, metav1.GetOptions{})
	if !apierrors.IsNotFound(err) {
		s.t.Errorf("the CSIDriver object of identity volumes is left of the release: %v", err)
	}
	i.check()
	i.set = i.stays.identityFiles()
	pods := s.kube.CoreV1().Pods(s.ns)
	s.must(pods.Delete(s.ctx, i.leaves.name, metav1.DeleteOptions{}))
	ended := i.leaves.await("has no container that runs", func(p *corev1.Pod) bool {
		return len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].State.Terminated != nil
	})
	// Longer than kubelet takes to let go of a pod whose volumes it can unmount.
	time.Sleep(10 * time.Second)
	if _, err := pods.Get(s.ctx, i.leaves.name, metav1.GetOptions{}); err != nil {
		s.t.Errorf("pod %s ended without a driver: %v", i.leaves.name, err)
	}
	if file := fileOnNode(ended); !isThere(file) {
		s.t.Errorf("%s is not there any more: the guide says that it stays", file)
	}
}

// back demands that the driver which was installed again lets the deleted pod go, wipes
// its files, and refreshes those of the other one.
func (i *identified) back() {
	s := i.stays.s
	s.t.Helper()
	pods := s.kube.CoreV1().Pods(s.ns)
	waiting, err := pods.Get(s.ctx, i.leaves.name, metav1.GetOptions{})
	if err == nil {
		s.must(gone(s.ctx, aWhile, one(pods, i.leaves.name), &corev1.Pod{}))
		if file := fileOnNode(waiting); isThere(file) {
			s.t.Errorf("%s is still there after its pod", file)
		}
	} else if !apierrors.IsNotFound(err) {
		s.must(err)
	}
	for end := time.Now().Add(period + busy); i.stays.identityFiles() == i.set; time.Sleep(time.Second) {
		if time.Now().After(end) {
			s.t.Fatalf("the driver has not refreshed the files of pod %s in %s", i.stays.name, period+busy)
		}
	}
	i.check()
}

// fileOnNode is where the node has the file of a pod's identity volume.
func fileOnNode(p *corev1.Pod) string {
	return filepath.Join(cluster.KubeletDir, "pods", string(p.UID), "volumes/kubernetes.io~csi/credentials/mount/token")
}

func isThere(file string) bool {
	content, err := os.ReadFile(file)
	return err == nil && len(content) > 0
}
