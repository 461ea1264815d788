package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/test/cluster"
)

const (
	identityOverlay  = "deploy/kustomize/overlays/identity"
	identityDriver   = "identity.csi.holdfast.dev"
	identitySelector = "app.kubernetes.io/name=holdfast-identity"
	identitySources  = "holdfast-identity-sources"
	credentialsDir   = "/credentials"

	// period is the longest time between two calls of kubelet's for one volume.
	period = 90 * time.Second
	// busy is what a machine with two cores may be late.
	busy = 30 * time.Second
)

// identityScene is the scene of all tests of identity volumes: there is one driver of
// them in a cluster, and one file of sources.
type identityScene struct {
	*scene
	vault   *vaultServer // which is always there
	stops   *vaultServer // which is stopped and goes on
	shuts   *gate        // in front of vault; it is shut and opened
	holds   *gate        // in front of vault; it holds answers back
	ofGuide *vaultServer // which the guide works with
}

// TestCredentialsFollowTheIdentityOfThePod runs pods with identity volumes. Nothing is
// played: kubelet, its tokens and its calls, the API server that is asked about the
// tokens, and Vault.
func TestCredentialsFollowTheIdentityOfThePod(t *testing.T) {
	t.Parallel()
	i := &identityScene{scene: newScene(t)}
	program, err := cluster.BuildVault(i.ctx, os.Stderr)
	i.must(err)
	i.letVaultAsk()
	i.vault, i.stops, i.ofGuide = i.startVault(program), i.startVault(program), i.startVault(program)
	for _, v := range []*vaultServer{i.vault, i.stops} {
		v.trustCluster(i.scene)
		v.becomeAuthority(i.scene)
	}
	i.shuts, i.holds = i.newGate(i.vault), i.newGate(i.vault)
	i.step("three Vaults run")
	i.removeIdentityAfterwards()
	t.Run("guide", i.theGuide)
	i.installIdentity()
	// All at once, in the place of one parallel test: they wait most of the time.
	atOnce(t, map[string]func(*testing.T){
		"accounts":    i.accounts,
		"certificate": i.certificate,
		"stopped":     i.stopped,
		"refusing":    i.refusing,
		"revoked":     i.revoked,
		"fifty":       i.fifty,
	})
	// This one disturbs the others.
	t.Run("killed", i.killed)
}

// atOnce runs tests at the same time.
func atOnce(t *testing.T, tests map[string]func(*testing.T)) {
	var all sync.WaitGroup
	for name, test := range tests {
		all.Go(func() { t.Run(name, test) })
	}
	all.Wait()
}

// installIdentity installs the driver of identity volumes with its sources.
func (i *identityScene) installIdentity() {
	i.t.Helper()
	overlay := filepath.Join(tree, identityOverlay)
	_, err := i.cluster.Kubectl(i.ctx, "apply", "--server-side", "--force-conflicts", "-k", overlay)
	i.must(err)
	all := map[string]any{}
	source := func(name, address, method string, v *vaultServer) {
		all[name] = map[string]any{"vault": map[string]any{
			"address": address, "ca": v.pem, "audience": "vault", "auth": map[string]any{"method": method},
		}}
	}
	source("vault", i.ofGuide.address, "kubernetes", i.ofGuide) // as the guide calls it
	source("asking", i.vault.address, "kubernetes", i.vault)
	source("verifying", i.vault.address, "jwt", i.vault)
	source("stops", i.stops.address, "kubernetes", i.stops)
	source("shuts", i.shuts.url(), "kubernetes", i.vault)
	source("holds", i.holds.url(), "kubernetes", i.vault)
	text, err := yaml.Marshal(map[string]any{"sources": all})
	i.must(err)
	config := applycorev1.ConfigMap(identitySources, driverNamespace).WithData(map[string]string{"sources.yaml": string(text)})
	_, err = i.kube.CoreV1().ConfigMaps(driverNamespace).Apply(i.ctx, config, metav1.ApplyOptions{FieldManager: "e2e", Force: true})
	i.must(err)
	_, err = i.cluster.Kubectl(i.ctx, "-n", driverNamespace, "rollout", "restart", "daemonset/holdfast-identity")
	i.must(err)
	_, err = i.cluster.Kubectl(i.ctx, "-n", driverNamespace, "rollout", "status", "--timeout=120s", "daemonset/holdfast-identity")
	i.must(err)
	await(i.scene, aWhile, one(i.kube.AppsV1().DaemonSets(driverNamespace), "holdfast-identity"), "is ready",
		func(d *appsv1.DaemonSet) bool { return d.Status.NumberReady == 1 })
}

// removeIdentityAfterwards takes the driver away at the end, and demands that no
// credential is left on the node.
func (i *identityScene) removeIdentityAfterwards() {
	i.afterwards(func(late *scene) {
		late.must(noCredentials(late.ctx, nil))
		// Not the namespace, which others have too.
		for _, what := range [][]string{{"-n", driverNamespace, "daemonset/holdfast-identity", "configmap/" + identitySources}, {"csidriver/" + identityDriver}} {
			if out, err := late.cluster.Kubectl(late.ctx, append([]string{"delete", "--ignore-not-found"}, what...)...); err != nil {
				late.t.Errorf("%v\n%s", err, out)
			}
		}
	})
}

// noCredentials waits until no identity volume is mounted, of any pod if none are
// named by their UIDs.
func noCredentials(ctx context.Context, uids []types.UID) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		mounts, err := mount.List()
		if err != nil {
			return err
		}
		left := slices.DeleteFunc(mounts, func(m mount.Info) bool {
			mine := uids == nil || slices.ContainsFunc(uids, func(uid types.UID) bool { return strings.Contains(m.Path, string(uid)) })
			return m.Source != "holdfast-identity" || !mine
		})
		if len(left) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d identity volumes are left, the first at %s: %w", len(left), left[0].Path, ctx.Err())
		case <-time.After(time.Second):
		}
	}
}

// ask is what a pod asks for.
type ask struct {
	source  string
	account string // "allowed" unless given
	// onExpiry is keep unless given, credentials the password of the scene, and files
	// that in a file.
	onExpiry, credentials, files string
}

// withCredentials is a pod with an identity volume at credentialsDir.
func (s *scene) withCredentials(name string, a ask, args ...string) *corev1.Pod {
	p := working(name, "", args...)
	group, readOnly := int64(2000), true
	attributes := map[string]string{
		"source": a.source, "role": s.ns, "onExpiry": "keep",
		"credentials": "app: {engine: kv, mount: secret, path: " + s.ns + "}", "files": "password: app.password",
	}
	for key, value := range map[string]string{"onExpiry": a.onExpiry, "credentials": a.credentials, "files": a.files} {
		if value != "" {
			attributes[key] = value
		}
	}
	if p.Spec.ServiceAccountName = a.account; a.account == "" {
		p.Spec.ServiceAccountName = "allowed"
	}
	p.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: &group}
	p.Spec.Volumes = []corev1.Volume{{Name: "credentials", VolumeSource: corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{
		Driver: identityDriver, ReadOnly: &readOnly, VolumeAttributes: attributes,
	}}}}
	p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "credentials", MountPath: credentialsDir}}
	return p
}

// watching is one that reads its password all the time.
func (s *scene) watching(name string, a ask) *corev1.Pod {
	return s.withCredentials(name, a, "watch", credentialsDir+"/password")
}

// certificateFor is the credential "web", a certificate that lives so long.
func certificateFor(ttl string) string {
	return "web: {engine: pki, mount: pki, role: pod, with: {common_name: web.shop.svc, ttl: " + ttl + "}}"
}

// pairing is one that uses a certificate all the time.
func (s *scene) pairing(name, source, ttl string) *corev1.Pod {
	return s.withCredentials(name, ask{
		source:      source,
		credentials: certificateFor(ttl),
		files:       "{tls.crt: web.certificate_chain, tls.key: web.private_key, ca.crt: web.issuing_ca}",
	}, "pairs", credentialsDir)
}

// sight is what a pod has seen of its credentials; see the command workload.
type sight struct {
	Looks      int           `json:"looks"`
	Mount      string        `json:"mount"`
	Contents   []string      `json:"contents"`
	Serials    []string      `json:"serials"`
	Ends       time.Time     `json:"ends"`
	Left       time.Duration `json:"left"`
	Again      int           `json:"again"`
	Handshakes int           `json:"handshakes"`
}

// sight asks a pod that watches. It fails the test if the pod has ended, which it does
// at the first thing that is not as it must be.
func (p *pod) sight() sight {
	p.s.t.Helper()
	out, err := p.s.execute(p.name, mainContainer, workloadProgram, "progress")
	if err != nil {
		p.s.t.Fatalf("%v; it says:\n%s", err, p.log())
	}
	var now sight
	p.s.must(json.Unmarshal([]byte(out), &now))
	return now
}

// sees demands that all that a pod has ever read is this.
func (p *pod) sees(contents ...string) sight {
	p.s.t.Helper()
	now := p.sight()
	if !slices.Equal(now.Contents, contents) {
		p.s.t.Errorf("pod %s has seen %q, want %q", p.name, now.Contents, contents)
	}
	return now
}

// awaitSight waits until ok says so, and returns how long that took.
func (p *pod) awaitSight(most time.Duration, what string, ok func(sight) bool) time.Duration {
	p.s.t.Helper()
	for begin := time.Now(); ; time.Sleep(time.Second) {
		now, took := p.sight(), time.Since(begin)
		if ok(now) {
			return took.Round(time.Second)
		}
		if took > most {
			p.s.t.Fatalf("pod %s does not see %s for %s, but %+v", p.name, what, most, now)
		}
	}
}

// awaitPassword waits until the last thing that the pod has read is this.
func (p *pod) awaitPassword(want string, most time.Duration) time.Duration {
	p.s.t.Helper()
	return p.awaitSight(most, fmt.Sprintf("%q", want), func(now sight) bool {
		return len(now.Contents) > 0 && now.Contents[len(now.Contents)-1] == want
	})
}

// awaitSerials waits for the n-th certificate.
func (p *pod) awaitSerials(n int, most time.Duration) time.Duration {
	p.s.t.Helper()
	return p.awaitSight(most, fmt.Sprintf("%d certificates", n), func(now sight) bool { return len(now.Serials) >= n })
}

// poke makes kubelet look at a pod at once, and call the drivers of its volumes, as it
// does whenever a pod is changed.
func (s *scene) poke(namespace, name string) error {
	patch := fmt.Appendf(nil, `{"metadata":{"annotations":{"e2e.holdfast.test/poked":%q}}}`, time.Now().Format(time.RFC3339Nano))
	_, err := s.kube.CoreV1().Pods(namespace).Patch(s.ctx, name, types.MergePatchType, patch, metav1.PatchOptions{})
	return err
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
