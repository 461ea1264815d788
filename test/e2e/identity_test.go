package e2e

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/holdfast-csi/holdfast/test/cluster"
	"github.com/holdfast-csi/holdfast/test/fakevault"
)

const (
	identityOverlay  = "deploy/kustomize/overlays/identity"
	identityDriver   = "identity.csi.holdfast.dev"
	identitySelector = "app.kubernetes.io/name=holdfast-identity"
	identitySources  = "holdfast-identity-sources"
	credentialsDir   = "/credentials"

	// republished is what kubelet takes between two calls for one volume, at most, and
	// some more for a machine that is busy.
	republished = 2 * time.Minute
)

// TestCredentialsFollowTheIdentityOfThePod runs pods with identity volumes: kubelet,
// its tokens and its calls are real, and so is the API server that is asked about the
// tokens. What hands out the credentials is a small server in the test, which can be
// made to refuse and to be away.
func TestCredentialsFollowTheIdentityOfThePod(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	vault := s.startVault()
	s.installIdentity(vault)
	vault.Put("secret/data/shop", map[string]any{"password": "first"})
	for _, name := range []string{"allowed", "refused"} {
		_, err := s.kube.CoreV1().ServiceAccounts(s.ns).Create(s.ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		s.must(err)
	}
	s.step("a pod of the service account that the role is bound to, and one of another")
	s.create(s.withCredentials("refused", "refused", "keep"))
	kept := s.run(s.withCredentials("kept", "allowed", "keep"))
	fenced := s.run(s.withCredentials("fenced", "allowed", "fence"))
	for _, p := range []*pod{kept, fenced} {
		p.wantCredential("first")
		if out := p.exec("sh", "-c", "stat -L -c '%a %u %g' "+credentialsDir+"/password; touch "+credentialsDir+"/x 2>&1 || true"); !strings.HasPrefix(out, "440 0 2000\n") || !strings.Contains(out, "Read-only") {
			t.Errorf("in the pod: %s", out)
		}
	}
	s.awaitEvent("refused", "FailedMount", "(?s)PermissionDenied.*log in at auth/kubernetes/login as role allowed.*is not allowed")
	mounts := map[string]string{kept.name: kept.mountID(), fenced.name: fenced.mountID()}

	s.step("the secret changes")
	vault.Put("secret/data/shop", map[string]any{"password": "second"})
	kept.awaitCredential("second", republished)
	fenced.awaitCredential("second", republished)

	s.step("Vault is away, and the driver is killed in the middle of a refresh")
	asked := make(chan struct{}, 100)
	vault.Misbehave(func(w http.ResponseWriter, r *http.Request) bool {
		asked <- struct{}{}
		select {
		case <-r.Context().Done():
		case <-time.After(5 * time.Second):
		}
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	})
	vault.Put("secret/data/shop", map[string]any{"password": "third"})
	select {
	case <-asked:
	case <-time.After(republished):
		t.Fatal("the driver asked for nothing")
	}
	s.killIdentityDriver()
	s.awaitEvent("kept", "CredentialRefreshFailed", "what is still valid is kept")
	kept.wantCredential("second")
	fenced.wantCredential("second")
	s.step("Vault is back")
	vault.Misbehave(nil)
	back := time.Now()
	kept.awaitCredential("third", republished)
	fenced.awaitCredential("third", republished)
	s.step("both files are refreshed %s after its return", time.Since(back).Round(time.Second))

	s.step("the policy is revoked")
	vault.Deny("secret/data/shop", true)
	fenced.awaitCredential("", 2*republished)
	s.awaitEvent("fenced", "CredentialFenced", "are emptied: the service has refused them")
	s.awaitEvent("kept", "CredentialExpired", "are kept as they are")
	kept.wantCredential("third")
	s.step("and given back")
	vault.Deny("secret/data/shop", false)
	fenced.awaitCredential("third", republished)
	for _, p := range []*pod{kept, fenced} {
		if now := p.mountID(); now != mounts[p.name] {
			t.Errorf("the mount of %s was %s and is %s", p.name, mounts[p.name], now)
		}
	}

	s.step("the pods go")
	s.must(s.kube.CoreV1().Pods(s.ns).DeleteCollection(s.ctx, metav1.DeleteOptions{}, metav1.ListOptions{}))
	s.must(gone(s.ctx, aWhile, one(s.kube.CoreV1().Pods(s.ns), fenced.name), &corev1.Pod{}))
	s.must(gone(s.ctx, aWhile, one(s.kube.CoreV1().Pods(s.ns), kept.name), &corev1.Pod{}))
}

// startVault starts a server that believes who the API server believes, and gives the
// role "allowed" to the service account of that name.
func (s *scene) startVault() *fakevault.Server {
	s.t.Helper()
	vault, err := fakevault.NewAt(cluster.NodeIP + ":0")
	s.must(err)
	s.t.Cleanup(vault.Close)
	vault.Verify = func(role, jwt string) string {
		ctx, cancel := context.WithTimeout(s.ctx, time.Minute)
		defer cancel()
		review, err := s.kube.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{
			Spec: authenticationv1.TokenReviewSpec{Token: jwt, Audiences: []string{"vault"}},
		}, metav1.CreateOptions{})
		want := fmt.Sprintf("system:serviceaccount:%s:%s", s.ns, role)
		switch {
		case err != nil:
			return err.Error()
		case !review.Status.Authenticated || review.Status.User.Username != want:
			return fmt.Sprintf("%q is not allowed", review.Status.User.Username)
		}
		return ""
	}
	return vault
}

// installIdentity installs the driver of identity volumes, with this server as its
// source, and takes it away at the end.
func (s *scene) installIdentity(vault *fakevault.Server) {
	s.t.Helper()
	overlay := filepath.Join(tree, identityOverlay)
	_, err := s.cluster.Kubectl(s.ctx, "apply", "--server-side", "--force-conflicts", "-k", overlay)
	s.must(err)
	s.t.Cleanup(func() {
		// Not the namespace, which others have too.
		ctx, cancel := context.WithTimeout(context.Background(), aWhile)
		defer cancel()
		for _, what := range [][]string{{"-n", driverNamespace, "daemonset/holdfast-identity"}, {"csidriver/" + identityDriver}} {
			if out, err := s.cluster.Kubectl(ctx, append([]string{"delete", "--ignore-not-found"}, what...)...); err != nil {
				s.t.Errorf("%v\n%s", err, out)
			}
		}
	})
	sources := s.kube.CoreV1().ConfigMaps(driverNamespace)
	config, err := sources.Get(s.ctx, identitySources, metav1.GetOptions{})
	s.must(err)
	config.Data["sources.yaml"] = fmt.Sprintf("sources: {vault: {vault: {address: %q, plaintext: true, audience: vault, auth: {method: kubernetes}}}}", vault.URL)
	_, err = sources.Update(s.ctx, config, metav1.UpdateOptions{})
	s.must(err)
	_, err = s.cluster.Kubectl(s.ctx, "-n", driverNamespace, "rollout", "restart", "daemonset/holdfast-identity")
	s.must(err)
	_, err = s.cluster.Kubectl(s.ctx, "-n", driverNamespace, "rollout", "status", "--timeout=120s", "daemonset/holdfast-identity")
	s.must(err)
	await(s, aWhile, one(s.kube.AppsV1().DaemonSets(driverNamespace), "holdfast-identity"), "is ready",
		func(d *appsv1.DaemonSet) bool { return d.Status.NumberReady == 1 })
}

// withCredentials is a pod of a service account with a password at credentialsDir.
func (s *scene) withCredentials(name, account, onExpiry string) *corev1.Pod {
	p := idle(name, "")
	group, readOnly := int64(2000), true
	p.Spec.ServiceAccountName = account
	p.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: &group}
	p.Spec.Volumes = []corev1.Volume{{Name: "credentials", VolumeSource: corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{
		Driver: identityDriver, ReadOnly: &readOnly, VolumeAttributes: map[string]string{
			"source": "vault", "role": "allowed", "onExpiry": onExpiry,
			"credentials": "app: {engine: kv, mount: secret, path: shop}", "files": "password: app.password",
		},
	}}}}
	p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "credentials", MountPath: credentialsDir}}
	return p
}

func (p *pod) credential() string { return p.exec("cat", credentialsDir+"/password") }

func (p *pod) wantCredential(want string) {
	p.s.t.Helper()
	if got := p.credential(); got != want {
		p.s.t.Errorf("pod %s has %q, want %q", p.name, got, want)
	}
}

func (p *pod) awaitCredential(want string, most time.Duration) {
	p.s.t.Helper()
	for end := time.Now().Add(most); p.credential() != want; time.Sleep(time.Second) {
		if time.Now().After(end) {
			p.s.t.Fatalf("pod %s has %q, and not %q after %s", p.name, p.credential(), want, most)
		}
	}
}

// mountID is that of the mount that the pod sees.
func (p *pod) mountID() string {
	p.s.t.Helper()
	return p.exec("sh", "-c", "grep ' "+credentialsDir+" ' /proc/self/mountinfo")
}

// killIdentityDriver kills the driver's process, and waits until kubelet has started
// another one.
func (s *scene) killIdentityDriver() {
	s.t.Helper()
	pods, err := s.kube.CoreV1().Pods(driverNamespace).List(s.ctx, metav1.ListOptions{LabelSelector: identitySelector})
	s.must(err)
	if len(pods.Items) != 1 {
		s.t.Fatalf("there are %d pods of the identity driver", len(pods.Items))
	}
	name := pods.Items[0].Name
	before := restarts(&pods.Items[0])["driver"]
	pid, err := s.cluster.ContainerPID(s.ctx, driverNamespace, name, "driver")
	s.must(err)
	s.must(syscall.Kill(pid, syscall.SIGKILL))
	await(s, aWhile, one(s.kube.CoreV1().Pods(driverNamespace), name), "runs again",
		func(p *corev1.Pod) bool { return restarts(p)["driver"] > before && running(p) })
}
