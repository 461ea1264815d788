package sealed

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/orchestrator"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// vaultSite is a machine with a pool, and a Vault.
type vaultSite struct {
	*site
	vault *vaultServer
}

func TestKeysOfVault(t *testing.T) {
	v := startVault(t)
	s := newSite(t, poolSize)
	for _, part := range []struct {
		name string
		run  func(vaultSite)
	}{
		{"pods of one account share a volume and others get nothing", accountsAreKeptApart},
		{"a derivation context alone protects nothing", contextAloneProtectsNothing},
		{"a key for each account by a templated policy", templatedPolicy},
		{"the wrapping key is rotated", rotation},
		{"the wrapping key is deleted", destruction},
		{"Vault is away", vaultIsAway}, // the last: it does not come back
	} {
		s.run(part.name, func(s *site) {
			v.t = s.t
			part.run(vaultSite{s, v})
			v.t = t
		})
	}
}

func accountsAreKeptApart(s vaultSite) {
	s.vault.role("web", "web", useOf(wrappingKey, "shop/web"))
	s.vault.role("other", "other", useOf(wrappingKey, "shop/other"))
	e := s.ext4(orchestrator.Claim{Name: "shared"})
	began := time.Now()
	target := e.publish(s.vault.keeper(podOf("web", "web-0"), "web"), "web-0")
	first := time.Since(began)
	e.write(filepath.Join(target, "file"), 1)
	began = time.Now()
	second := s.vault.keeper(podOf("web", "web-10"), "web")
	e.verify(filepath.Join(e.publish(second, "web-10"), "file"), 1)
	s.t.Logf("the first publish took %s, one for another pod %s with its login and read-back", first, time.Since(began))

	for _, c := range []struct{ what, account, role string }{
		{"a role of another account", "other", "web"},
		{"the right key with the account's own context", "other", "other"},
	} {
		err := e.Publish(s.ctx, s.vault.keeper(podOf(c.account, "thief"), c.role), e.target("thief"))
		s.mustBe(err, volume.ErrDenied, c.what)
		e.mustNotBeMounted("thief")
	}
	// A token of one pod that is shown for another does not get as far as Vault.
	stolen := s.vault.keeper(podOf("web", "web-0"), "web")
	stolen.Pod = podOf("web", "web-10")
	s.mustBe(e.Publish(s.ctx, stolen, e.target("thief")), volume.ErrUnauthenticated, "another pod's token")

	e.unpublish("web-10")
	e.end("web-0")
	e.stage()
	began = time.Now()
	e.publish(s.vault.keeper(podOf("web", "web-0"), "web"), "web-0")
	s.t.Logf("the first publish after a stage took %s", time.Since(began))
	e.verify(filepath.Join(e.target("web-0"), "file"), 1)
	e.end("web-0")
}

// contextAloneProtectsNothing: a pod has its token too, and asks Vault what it likes.
func contextAloneProtectsNothing(s vaultSite) {
	s.vault.role("web", "web", useOf(wrappingKey, "shop/web"))
	s.vault.role("any", "", useOf(wrappingKey, ""))
	s.vault.role("other", "other", useOf(wrappingKey, "shop/other"))
	_, wrapped, err := s.vault.keeper(podOf("web", "web-0"), "web").New(s.ctx)
	s.must(err)
	thief := podOf("other", "thief")

	loose := s.vault.keeper(thief, "any")
	_, err = loose.Unwrap(s.ctx, wrapped)
	s.mustBe(err, volume.ErrDenied, "with its own context")
	loose.Context = "shop/web"
	if _, err = loose.Unwrap(s.ctx, wrapped); err != nil {
		s.t.Errorf("with a policy that names no context, the context of another account is refused: %v: the ADR says that it is not", err)
	}
	bound := s.vault.keeper(thief, "other")
	bound.Context = "shop/web"
	_, err = bound.Unwrap(s.ctx, wrapped)
	s.mustBe(err, volume.ErrDenied, "another account's context, with a policy that names the own")
	bound.Context = ""
	_, err = bound.Unwrap(s.ctx, wrapped)
	s.mustBe(err, volume.ErrDenied, "no context, with a policy that names one")
}

// templatedPolicy: one policy and one role for all accounts, and a wrapping key for
// each.
func templatedPolicy(s vaultSite) {
	alias := "identity.entity.aliases." + s.vault.accessor + ".metadata."
	own := "{{" + alias + "namespace}}.{{" + alias + "account}}"
	s.vault.role("own", "", useOf(own, ""))
	web := s.vault.keeper(podOf("web", "web-0"), "own")
	web.Key, web.Context = "shop.web", ""
	e := s.ext4(orchestrator.Claim{Name: "templated"})
	s.mustBe(e.Publish(s.ctx, web, e.target("web-0")), volume.ErrDenied, "with a wrapping key that nobody has made")
	e.mustNotBeMounted("web-0")
	for _, key := range []string{"shop.web", "shop.other"} {
		s.vault.write("transit/keys/"+key, map[string]any{})
	}
	e.write(filepath.Join(e.publish(web, "web-0"), "file"), 1)
	thief := s.vault.keeper(podOf("other", "thief"), "own")
	for _, key := range []string{"shop.web", "shop.other"} {
		thief.Key, thief.Context = key, ""
		s.mustBe(e.Publish(s.ctx, thief, e.target("thief")), volume.ErrDenied, "another account with the key "+key)
		e.mustNotBeMounted("thief")
	}
	e.end("web-0")
}

// rotation: the data key stays what it is, so nothing is encrypted anew; only how it is
// wrapped changes.
func rotation(s vaultSite) {
	s.vault.role("web", "web", useOf(wrappingKey, "shop/web"))
	e := s.ext4(orchestrator.Claim{Name: "rotated"})
	keeper := s.vault.keeper(podOf("web", "web-0"), "web")
	e.write(filepath.Join(e.publish(keeper, "web-0"), "file"), 1)
	snap, err := s.driver.Snapshot(s.ctx, "before-rotation", e.id)
	s.must(err)
	s.vault.write("transit/keys/"+wrappingKey+"/rotate", nil)
	names, err := os.OpenRoot(e.Staging)
	s.must(err)
	defer names.Close()
	record, _, err := ReadRecord(names)
	s.must(err)
	if record.Wrapped, err = keeper.Rewrap(s.ctx, record.Wrapped); err != nil {
		s.t.Fatal(err)
	}
	s.must(record.Write(names))
	names.Close()
	e.end("web-0")

	restored := s.ext4(orchestrator.Claim{Name: "of-before-rotation", Snapshot: snap.GetSnapshotId()})
	restored.verify(filepath.Join(restored.publish(keeper, "web-0"), "file"), 1)
	restored.end("web-0")
	// Versions that are not needed for any volume may be needed for its snapshots.
	s.vault.write("transit/keys/"+wrappingKey+"/config", map[string]any{"min_decryption_version": 2})
	e.stage()
	e.verify(filepath.Join(e.publish(keeper, "web-0"), "file"), 1)
	e.end("web-0")
	restored.stage()
	s.mustBe(restored.Publish(s.ctx, keeper, restored.target("web-0")), volume.ErrDenied, "with a version of the key that is not allowed any more")
	restored.mustNotBeMounted("web-0")
	restored.unstage()
	s.vault.write("transit/keys/"+wrappingKey+"/config", map[string]any{"min_decryption_version": 1})
}

// destruction: with the wrapping key go the volume, its snapshots and its clones, as
// soon as the kernel has the volume's key nowhere. A backup of the wrapping key brings
// all of them back.
func destruction(s vaultSite) {
	s.vault.role("web", "web", useOf(wrappingKey, "shop/web"))
	e := s.ext4(orchestrator.Claim{Name: "doomed"})
	keeper := s.vault.keeper(podOf("web", "web-0"), "web")
	target := e.publish(keeper, "web-0")
	e.write(filepath.Join(target, "file"), 1)
	snap, err := s.driver.Snapshot(s.ctx, "doomed-snap", e.id)
	s.must(err)
	clone := s.ext4(orchestrator.Claim{Name: "doomed-clone", Volume: e.id})
	clone.verify(filepath.Join(clone.publish(keeper, "web-1"), "file"), 1)
	clone.unpublish("web-1")
	s.must(clone.Lock())

	backup, err := s.vault.admin.Logical().ReadWithContext(s.ctx, "transit/backup/"+wrappingKey)
	s.must(err)
	s.vault.deleteWrappingKey()
	e.verify(filepath.Join(target, "file"), 1) // who has it mounted keeps it
	e.end("web-0")
	restored := s.ext4(orchestrator.Claim{Name: "doomed-restored", Snapshot: snap.GetSnapshotId()})
	e.stage()
	for _, each := range []*ext4{e, clone, restored} {
		s.mustBe(each.Publish(s.ctx, keeper, each.target("web-2")), volume.ErrDenied, each.claim.Name+" without the wrapping key")
		each.mustNotBeMounted("web-2")
		each.mustHaveKey(KeyAbsent)
		names := each.sealedNames()
		if len(names) != 1 || names[0] == "file" {
			s.t.Errorf("%s shows %q", each.claim.Name, names)
		}
		each.unstage()
	}
	// A key of the same name that is made anew is another one.
	s.vault.makeWrappingKey()
	s.vault.write("transit/keys/"+wrappingKey+"/rotate", nil) // as many versions as the old one had
	for _, each := range []*ext4{e, clone, restored} {
		each.stage()
		s.mustBe(each.Publish(s.ctx, keeper, each.target("web-2")), volume.ErrDenied, each.claim.Name+" with a new wrapping key of the same name")
		each.mustNotBeMounted("web-2")
		each.unstage()
	}
	s.vault.deleteWrappingKey()
	s.vault.write("transit/restore/"+wrappingKey, backup.Data)
	for _, each := range []*ext4{e, clone, restored} {
		each.stage()
		each.verify(filepath.Join(each.publish(keeper, "web-2"), "file"), 1)
		each.end("web-2")
	}
}

func vaultIsAway(s vaultSite) {
	s.vault.role("web", "web", useOf(wrappingKey, "shop/web"))
	e := s.ext4(orchestrator.Claim{Name: "vault-away"})
	target := e.publish(s.vault.keeper(podOf("web", "web-0"), "web"), "web-0")
	e.write(filepath.Join(target, "file"), 1)
	s.vault.kill()
	e.verify(filepath.Join(target, "file"), 1) // nothing of a running pod needs it
	later := s.vault.keeper(podOf("web", "web-1"), "web")
	s.mustBe(e.Publish(s.ctx, later, e.target("web-1")), volume.ErrUnavailable, "publish without Vault")
	e.mustNotBeMounted("web-1")
	e.mustHaveKey(KeyPresent)
	e.end("web-0")
}
