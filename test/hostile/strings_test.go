package hostile

import "strings"

// canaryWord starts every secret and every token that the attacks pass.
const canaryWord = "canary7Qx"

// evil are the strings that every field of every request gets. Their names tell
// failures apart.
func (s *scene) evil() map[string]string {
	outside := canaryDir(s.box)
	witness := s.witnesses[0]
	return map[string]string{
		"empty":               "",
		"dot":                 ".",
		"up":                  "..",
		"climb":               "../../../../../../../../etc/passwd",
		"absolute":            "/etc/passwd",
		"root":                "/",
		"outside":             outside + "/dir",
		"outside by up":       s.box.Kubelet() + "/../canary/dir",
		"kubelet itself":      s.box.Kubelet(),
		"kubelet's neighbour": s.box.Kubelet() + "-evil/target",
		"the pool":            s.box.Pools() + "/pool/volumes/" + witness.id,
		"through a link":      s.traps() + "/link-to-dir",
		"below a link":        s.traps() + "/link-to-dir/new",
		"new through a link":  s.traps() + "/link-to-nothing",
		"NUL":                 "a\x00b",
		"control":             "a\x1b[31m\x07b",
		"newline":             "a\nlevel=INFO msg=forged method=DeleteVolume\n",
		"not text":            notText,
		"right to left":       "\u202egnp.exe",
		"long":                strings.Repeat("a", 129),
		"long part":           s.traps() + "/" + strings.Repeat("a", 256),
		"long path":           s.traps() + strings.Repeat("/a", 2100),
		"megabytes":           strings.Repeat("A", 5<<20),
		"option":              "-F",
		"options":             "--help --force -E root_owner=0:0",
		"shell":               "$(touch " + outside + "/pwned); `touch " + outside + "/pwned` | touch " + outside + "/pwned",
		"format":              "%s%s%n%d",
		"comma":               "ro,loop=/dev/loop0,offset=4096",
		"quoted":              `"'\`,
		"mount option":        "X-mount.mkdir=0777",
		"like ours":           "vol.0000000000000000.00000000000000000000000000000000",
		"like our snapshot":   "snap.0000000000000000.00000000000000000000000000000000",
		"ours, climbing":      witness.id + "/../../snapshots",
		"ours, upper case":    strings.ToUpper(witness.id),
		"ours and NUL":        witness.id + "\x00",
		"our snapshot's kind": "snap" + strings.TrimPrefix(witness.id, "vol"),
		"token":               "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.c2lnbmF0dXJlc2lnbmF0dXJlc2lnbmF0dXJl" + canaryWord,
	}
}
