package rpc

import (
	"cmp"
	"encoding/json"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/kubernetes-csi/csi-lib-utils/protosanitizer"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// TokensKey is the key under which kubelet passes the pod's service account
// tokens, in the secrets or in the volume context of NodePublishVolume
// (kubernetes pkg/volume/csi/csi_mounter.go). What is under it in any map never
// reaches a log.
const TokensKey = "csi.storage.k8s.io/serviceAccount.tokens"

// stripped stands where a secret was; it is the word of protosanitizer.
const stripped = "***stripped***"

// jwtShape matches a JSON Web Token, whole or cut (RFC 7519; RFC 7515, section
// 7.1). A JSON object in base64url starts with "ey", or "ew" if white space
// follows its brace. Without white space it is "ey" and one of I to L, "eyJ" if a
// letter comes next, which every known issuer writes; so that form is taken out
// even if only two parts are left of it.
var jwtShape = regexp.MustCompile(`ey[I-L][A-Za-z0-9_-]*=*(?:\.[A-Za-z0-9_-]*=*)+` +
	`|e[wy][A-Za-z0-9_-]{8,}=*\.[A-Za-z0-9_-]{8,}=*\.[A-Za-z0-9_-]{16,}=*`)

// Redact takes everything that has the shape of a JWT out of a text.
func Redact(text string) string {
	return jwtShape.ReplaceAllString(text, stripped)
}

// secrets are the secret strings of one request, the longest first. The zero
// value has none.
type secrets struct {
	found []string
}

// minSecret is the length in bytes of the shortest secret that is looked for in
// a text: a shorter one is part of ordinary words.
const minSecret = 4

// secretsOf collects the secret strings of a request: the values of its secret
// fields, its tokens, and the values of its mount options, which the CSI
// specification calls sensitive. The name of a mount option is not secret, since
// an error about an option must be able to say which one it is about.
func secretsOf(req any) secrets {
	msg, ok := req.(proto.Message)
	if !ok {
		return secrets{}
	}
	var found []string
	add := func(value string) {
		quoted := strconv.Quote(value)
		forms := []string{value, quoted[1 : len(quoted)-1]}
		// A program that complains about a key file quotes one line of it.
		for line := range strings.Lines(value) {
			forms = append(forms, strings.TrimSpace(line))
		}
		for _, f := range forms {
			if len(f) >= minSecret {
				found = append(found, f)
			}
		}
	}
	walkStrings(msg.ProtoReflect(), func(s stringField) {
		switch {
		case s.isKey:
		case s.field.Name() == "mount_flags":
			// One flag may be a whole list (mount(8), -o).
			for flag := range strings.SplitSeq(s.value, ",") {
				_, value, _ := strings.Cut(flag, "=")
				add(value)
			}
		case s.key == TokensKey:
			add(s.value)
			for _, token := range tokensIn(s.value) {
				add(token)
			}
		case isSecret(s.field):
			add(s.value)
		}
	})
	// A secret that is part of another one must come after it, or the rest of that
	// one would stay.
	slices.SortFunc(found, func(a, b string) int {
		return cmp.Or(cmp.Compare(len(b), len(a)), strings.Compare(a, b))
	})
	return secrets{slices.Compact(found)}
}

// scrub takes the secrets, and everything that has the shape of a JWT, out of a
// text.
//
// It does not use strings.Replacer, which takes time in the square of the length
// of what it is to replace: a secret of a few megabytes would keep the driver busy
// for hours.
func (s secrets) scrub(text string) string {
	parts := []string{text}
	for _, secret := range s.found {
		var smaller []string
		for _, p := range parts {
			smaller = append(smaller, strings.Split(p, secret)...)
		}
		parts = smaller
	}
	return Redact(strings.Join(parts, stripped))
}

// tokensIn reads the tokens out of the value of TokensKey: a JSON object of
// authentication.k8s.io/v1 TokenRequestStatus by audience.
func tokensIn(value string) []string {
	var byAudience map[string]struct {
		Token string `json:"token"`
	}
	if json.Unmarshal([]byte(value), &byAudience) != nil {
		return nil
	}
	var tokens []string
	for _, t := range byAudience {
		tokens = append(tokens, t.Token)
	}
	return tokens
}

// render is a message as JSON for the log, without its secrets and with its long
// strings cut.
func render(message any) string {
	msg, ok := message.(proto.Message)
	if !ok || !msg.ProtoReflect().IsValid() {
		return ""
	}
	clean := proto.Clone(msg)
	rewriteStrings(clean.ProtoReflect(), func(s stringField) string {
		if s.key == TokensKey || s.field.Name() == "mount_flags" {
			return stripped
		}
		return cut(Redact(s.value), maxLogText)
	})
	return cut(secretsOf(msg).scrub(protosanitizer.StripSecrets(clean).String()), maxLogMessage)
}

// isSecret says whether the CSI specification marks a field as secret.
func isSecret(field protoreflect.FieldDescriptor) bool {
	marked, _ := proto.GetExtension(field.Options(), csi.E_CsiSecret).(bool)
	return marked
}

// cut shortens a text to about limit bytes and says so. A secret must be taken
// out before, else half of it may survive.
func cut(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	end := limit
	for end > 0 && !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + "... (" + strconv.Itoa(len(text)) + " bytes)"
}
