package e2e

import (
	"syscall"
	"testing"
	"time"
)

// outage is longer than two periods, whatever kubelet's pace.
const outage = 210 * time.Second

// stopped: Vault takes connections and answers nothing, for several periods. Its
// pods have a password, and a certificate that is to be replaced meanwhile.
func (i *identityScene) stopped(t *testing.T) {
	s := newScene(t)
	i.stops.grant(s, canRead(s)+canIssue)
	i.stops.put(s, "first")
	password, pairs := s.create(s.watching("password", ask{source: "stops"})), s.create(s.pairing("pairs", "stops", "420s"))
	password.await("runs", running)
	pairs.await("runs", running)
	password.awaitPassword("first", aWhile)
	pairs.awaitSerials(1, aWhile)

	s.step("Vault is stopped")
	s.must(i.stops.process.Signal(syscall.SIGSTOP))
	// The certificate is due after two thirds of its life, and may be replaced until it
	// ends.
	i.endures(s, pairs.sight().Ends.Add(-130*time.Second), password, pairs)
	s.awaitEvent("password", "CredentialRefreshFailed", "what is still valid is kept")
	s.must(i.stops.process.Signal(syscall.SIGCONT))
	i.stops.put(s, "second")
	s.step("Vault goes on: the password is new after %s", password.awaitPassword("second", period+busy))
	s.step("and the certificate after %s more", pairs.awaitSerials(2, period+busy))
	s.awaitEvent("password", "CredentialRefreshed", "refreshed again")
	password.sees("first", "second")
	if now := pairs.sight(); now.Left < 10*time.Second {
		t.Errorf("a certificate was used with %s left", now.Left)
	}
}

// refusing: nobody listens where Vault was, for several periods.
func (i *identityScene) refusing(t *testing.T) {
	s := newScene(t)
	i.vault.grant(s, canRead(s))
	i.vault.put(s, "first")
	// What is still valid is not for fence to take.
	p := s.run(s.watching("password", ask{source: "shuts", onExpiry: "fence"}))
	p.awaitPassword("first", aWhile)

	s.step("nobody listens")
	i.shuts.shut()
	i.vault.put(s, "second")
	i.endures(s, time.Time{}, p)
	s.awaitEvent("password", "CredentialRefreshFailed", "connection refused.*what is still valid is kept")
	s.must(i.shuts.unlock())
	s.step("Vault is back: the password is new after %s", p.awaitPassword("second", period+busy))
	p.sees("first", "second")
}

// endures demands that nothing changes for the pods as long as their Vault is away: for
// an outage, and until a time. That the mount and an open file stay what they are they
// look at themselves.
func (i *identityScene) endures(s *scene, until time.Time, pods ...*pod) {
	s.t.Helper()
	before := make([]sight, len(pods))
	for n, p := range pods {
		before[n] = p.sight()
	}
	for end := time.Now().Add(outage); time.Now().Before(end) || time.Now().Before(until); time.Sleep(10 * time.Second) {
		for n, p := range pods {
			now := p.sight()
			if len(now.Contents) != len(before[n].Contents) || len(now.Serials) != len(before[n].Serials) || now.Mount != before[n].Mount {
				s.t.Fatalf("pod %s saw %+v, and sees %+v although Vault is away", p.name, before[n], now)
			}
		}
	}
}

// revoked: a policy is taken away and given back. A certificate that is not due for long
// goes too, for the driver asks what the pod may have.
func (i *identityScene) revoked(t *testing.T) {
	s := newScene(t)
	i.vault.grant(s, canRead(s)+canIssue)
	i.vault.put(s, "first")
	kept := s.create(s.watching("kept", ask{source: "asking"}))
	fenced := s.create(s.watching("fenced", ask{source: "asking", onExpiry: "fence"}))
	certified := s.create(s.watching("certified", ask{source: "asking", onExpiry: "fence", credentials: certificateFor("1h"), files: "password: web.serial_number"}))
	for _, p := range []*pod{kept, fenced} {
		p.await("runs", running)
		p.awaitPassword("first", aWhile)
	}
	certified.await("runs", running)
	s.step("the policy allows nothing any more")
	begin := time.Now()
	i.vault.policy(s, s.ns, "path \"secret/data/nothing\" { capabilities = [\"read\"] }\n")
	fenced.awaitPassword("", 2*period+busy)
	s.step("fenced after %s", time.Since(begin).Round(time.Second))
	certified.awaitPassword("", time.Until(begin.Add(2*period+busy)))
	s.step("and the certificate after %s", time.Since(begin).Round(time.Second))
	s.step("%s", s.awaitEvent("fenced", "CredentialFenced", "are emptied: the service has refused them").Message)
	s.awaitEvent("certified", "CredentialRefreshFailed", "no policy of the pod's allows pki/issue/pod any more")
	s.awaitEvent("kept", "CredentialExpired", "are kept as they are")
	kept.sees("first")
	s.step("it does again")
	i.vault.policy(s, s.ns, canRead(s)+canIssue)
	s.step("back after %s", fenced.awaitPassword("first", period+busy))
	certified.awaitSight(period+busy, "another certificate", func(now sight) bool { return len(now.Contents) == 3 && now.Contents[2] != "" })
	if now := certified.sight(); now.Contents[0] == now.Contents[2] {
		t.Errorf("the certificate that was taken away is back: %q", now.Contents)
	}
	fenced.sees("first", "", "first")
	kept.sees("first")
}
