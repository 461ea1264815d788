package cluster

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"time"

	"k8s.io/client-go/kubernetes"
)

// controlPlane is etcd and what stands on it, in the order in which it starts.
func (l layout) controlPlane() []daemon {
	return []daemon{
		// What a test cluster writes may be lost with the machine: no fsync, for 2
		// cores and one disk have better things to do.
		{name: "etcd", path: l.bin("etcd"), args: []string{
			"--data-dir=" + filepath.Join(dataDir, "etcd"), "--unsafe-no-fsync",
			"--listen-client-urls=" + etcdURL, "--advertise-client-urls=" + etcdURL,
			"--listen-peer-urls=" + etcdPeerURL, "--initial-advertise-peer-urls=" + etcdPeerURL, "--initial-cluster=default=" + etcdPeerURL,
		}},
		{name: "kube-apiserver", path: filepath.Join(l.kubernetesDir(), "kube-apiserver"), args: []string{
			"--etcd-servers=" + etcdURL, "--bind-address=" + serviceIP, "--advertise-address=" + serviceIP, "--secure-port=443",
			"--service-cluster-ip-range=" + serviceCIDR, "--endpoint-reconciler-type=none", "--allow-privileged=true",
			"--tls-cert-file=" + pki("apiserver.crt"), "--tls-private-key-file=" + pki("apiserver.key"), "--client-ca-file=" + pki("ca.crt"),
			"--kubelet-client-certificate=" + pki("apiserver-kubelet.crt"), "--kubelet-client-key=" + pki("apiserver-kubelet.key"),
			"--kubelet-preferred-address-types=InternalIP",
			"--service-account-issuer=https://kubernetes.default.svc", "--service-account-signing-key-file=" + pki("sa.key"), "--service-account-key-file=" + pki("sa.pub"),
			"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		}},
		{name: "kube-controller-manager", path: filepath.Join(l.kubernetesDir(), "kube-controller-manager"), args: []string{
			"--kubeconfig=" + pki("controller-manager.kubeconfig"), "--leader-elect=false", "--use-service-account-credentials",
			"--root-ca-file=" + pki("ca.crt"), "--service-account-private-key-file=" + pki("sa.key"), "--bind-address=127.0.0.1",
		}},
		{name: "kube-scheduler", path: filepath.Join(l.kubernetesDir(), "kube-scheduler"), args: []string{
			"--kubeconfig=" + pki("scheduler.kubeconfig"), "--leader-elect=false", "--bind-address=127.0.0.1",
		}},
	}
}

// startControlPlane starts all of it and waits until the API server is ready.
func (l layout) startControlPlane(ctx context.Context) error {
	for _, d := range l.controlPlane() {
		if err := d.start(); err != nil {
			return err
		}
		if d.name == "etcd" {
			if err := wait(ctx, 30*time.Second, func() bool { return healthy(ctx, etcdURL+"/health") }); err != nil {
				return fmt.Errorf("%s does not come up: %w\n%s", d.name, err, d.tail())
			}
		}
		if d.name == "kube-apiserver" {
			if err := l.waitForServer(ctx); err != nil {
				return fmt.Errorf("%s does not come up: %w\n%s", d.name, err, d.tail())
			}
		}
	}
	return nil
}

func healthy(ctx context.Context, url string) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	defer res.Body.Close()
	return res.StatusCode == http.StatusOK
}

func (l layout) waitForServer(ctx context.Context) error {
	config, err := l.restConfig()
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	return wait(ctx, 60*time.Second, func() bool {
		_, err := client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
		return err == nil
	})
}
