package e2e

import (
	"testing"
	"time"
)

// killed: the driver dies when Vault has given it a new password and a new certificate
// and it has not got them yet.
func (i *identityScene) killed(t *testing.T) {
	s := newScene(t)
	i.vault.grant(s, canRead(s)+canIssue)
	i.vault.put(s, "first")
	password, pairs := s.create(s.watching("password", ask{source: "holds"})), s.create(s.pairing("pairs", "holds", "5m"))
	password.await("runs", running)
	pairs.await("runs", running)
	password.awaitPassword("first", aWhile)
	pairs.awaitSerials(1, aWhile)

	// Certificates too, which kubelet's next call brings when the driver is new.
	asked := i.holds.hold("secret/data/", "pki/issue/")
	i.vault.put(s, "second")
	s.awaitPoked(password, asked)
	s.step("the answer is held back")
	s.killIdentityDriver()
	s.step("the driver was killed and runs again")
	password.sees("first")
	if now := pairs.sight(); len(now.Serials) != 1 {
		t.Errorf("there are certificates %v without anybody who could have brought them", now.Serials)
	}
	asked = i.holds.hold("pki/issue/")
	s.awaitPoked(pairs, asked)
	s.step("and is killed with a certificate on its way")
	s.killIdentityDriver()
	i.holds.release()
	back := time.Now()
	for _, p := range []*pod{password, pairs} {
		s.must(s.poke(s.ns, p.name))
	}
	password.awaitPassword("second", period+busy)
	pairs.awaitSerials(2, period+busy)
	s.step("both are new %s after that", time.Since(back).Round(time.Second))
	password.sees("first", "second")
}

// awaitPoked changes a pod now and then until Vault was asked for it.
func (s *scene) awaitPoked(p *pod, asked <-chan struct{}) {
	s.t.Helper()
	for end := time.Now().Add(period + busy); ; {
		s.must(s.poke(s.ns, p.name))
		select {
		case <-asked:
			return
		case <-time.After(5 * time.Second):
		}
		if time.Now().After(end) {
			s.t.Fatalf("Vault is not asked for what pod %s has", p.name)
		}
	}
}
