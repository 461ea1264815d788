package e2e

import (
	"context"
	"regexp"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// theGuide runs what docs/guides/pod-identity.md tells its reader to copy, with a Vault
// that nobody has touched yet. It leaves the driver installed.
func (i *identityScene) theGuide(t *testing.T) {
	s := newScene(t)
	s.removeOfGuide() // what a test that was killed has left
	s.afterwards((*scene).removeOfGuide)
	// The reader waits for the change up to 90 seconds; kubelet is in more of a hurry
	// here.
	ctx, stop := context.WithCancel(s.ctx)
	var poking sync.WaitGroup
	poking.Go(func() {
		for ctx.Err() == nil {
			_ = s.poke("shop", "web") // which is not there at first
			select {
			case <-ctx.Done():
			case <-time.After(5 * time.Second):
			}
		}
	})
	out := s.script(s.marked("docs/guides/pod-identity.md"), append(i.ofGuide.environment(), "HOME="+i.ofGuide.home)...)
	stop()
	poking.Wait()
	for _, want := range []string{`(?m)^s3cret`, `(?m)^n3w-s3cret$`} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("the commands do not say %s:\n%s", want, out)
		}
	}
}

// removeOfGuide removes the objects that the guide names beside the driver, and that no
// other test has.
func (s *scene) removeOfGuide() {
	s.t.Helper()
	for _, err := range []error{
		s.kube.CoreV1().Namespaces().Delete(s.ctx, "shop", metav1.DeleteOptions{}),
		s.kube.RbacV1().ClusterRoleBindings().Delete(s.ctx, "vault-reviewer", metav1.DeleteOptions{}),
		s.kube.RbacV1().ClusterRoleBindings().Delete(s.ctx, "issuer-keys", metav1.DeleteOptions{}),
		s.kube.CoreV1().ServiceAccounts("kube-system").Delete(s.ctx, "vault-reviewer", metav1.DeleteOptions{}),
		s.kube.CoreV1().ConfigMaps(driverNamespace).Delete(s.ctx, identitySources, metav1.DeleteOptions{}),
	} {
		if !apierrors.IsNotFound(err) {
			s.must(err)
		}
	}
	s.must(gone(s.ctx, aWhile, one(s.kube.CoreV1().Namespaces(), "shop"), &corev1.Namespace{}))
}
