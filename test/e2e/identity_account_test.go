package e2e

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// accounts: who may have a secret has it, and its changes, without a restart; who may
// not does not start. Once Vault asks the API server about each token, and once it
// verifies them itself.
func (i *identityScene) accounts(t *testing.T) {
	s := newScene(t)
	i.vault.grant(s, canRead(s))
	i.vault.put(s, "first")
	says := map[string]string{
		"asking":    "(?s)PermissionDenied.*source asking: log in at auth/kubernetes/login as role " + s.ns + ".*403.*service account name not authorized",
		"verifying": "(?s)PermissionDenied.*source verifying: log in at auth/jwt/login as role " + s.ns + ".*invalid subject",
	}
	var allowed []*pod
	for source := range says {
		s.create(s.watching(source+"-refused", ask{source: source, account: "refused"}))
		allowed = append(allowed, s.create(s.watching(source+"-allowed", ask{source: source})))
	}
	for _, p := range allowed {
		p.await("runs", running)
		p.awaitPassword("first", aWhile)
		if out := p.exec("sh", "-c", "stat -L -c '%a %u %g' "+credentialsDir+"/password; touch "+credentialsDir+"/x 2>&1 || true"); !strings.HasPrefix(out, "440 0 2000\n") || !strings.Contains(out, "Read-only") {
			t.Errorf("in the pod: %s", out)
		}
	}
	for source, text := range says {
		s.step("%s: %s", source, s.awaitEvent(source+"-refused", "FailedMount", text).Message)
	}
	s.step("the secret changes")
	i.vault.put(s, "second")
	for _, p := range allowed {
		took := p.awaitPassword("second", period+busy)
		s.step("pod %s has it after %s", p.name, took)
		p.sees("first", "second")
		p.await("was never restarted", func(o *corev1.Pod) bool { return restarts(o)[mainContainer] == 0 && running(o) })
	}
	for source := range says {
		refused := &pod{s: s, name: source + "-refused"}
		refused.await("has not started", func(o *corev1.Pod) bool { return o.Status.Phase == corev1.PodPending })
	}
}

// certificate: one of five minutes is replaced in time, under a client that uses it
// fifty times a second.
func (i *identityScene) certificate(t *testing.T) {
	s := newScene(t)
	i.vault.grant(s, canIssue)
	p := s.run(s.pairing("web", "asking", "5m"))
	p.awaitSerials(1, aWhile)
	first := p.sight()
	took := p.awaitSerials(2, time.Until(first.Ends))
	now := p.sight()
	s.step("another certificate after %s, when the first had %s left; %d pairs loaded, %d twice, %d connections", took, now.Left.Round(time.Second), now.Looks, now.Again, now.Handshakes)
	if now.Left < 30*time.Second {
		t.Errorf("the first certificate was replaced when it had %s left", now.Left)
	}
	if now.Looks < 1000 || now.Handshakes < 100 {
		t.Errorf("the client has done almost nothing: %+v", now)
	}
	if !now.Ends.After(first.Ends) {
		t.Errorf("the first certificate ends at %s, the second at %s", first.Ends, now.Ends)
	}
}
