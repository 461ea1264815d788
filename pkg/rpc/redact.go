package rpc

import (
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

// secrets are the secret strings of one request. The zero value has none.
type secrets struct {
	replacer *strings.Replacer
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
		_, option, _ := strings.Cut(s.value, "=")
		switch {
		case s.isKey:
		case s.field.Name() == "mount_flags":
			add(option)
		case s.key == TokensKey:
			add(s.value)
			for _, token := range tokensIn(s.value) {
				add(token)
			}
		case isSecret(s.field):
			add(s.value)
		}
	})
	if len(found) == 0 {
		return secrets{}
	}
	// At one place the replacer takes the first that fits: a secret that starts
	// with another one must come first.
	slices.SortFunc(found, func(a, b string) int { return len(b) - len(a) })
	pairs := make([]string, 0, 2*len(found))
	for _, f := range slices.Compact(found) {
		pairs = append(pairs, f, stripped)
	}
	return secrets{replacer: strings.NewReplacer(pairs...)}
}

// scrub takes the secrets, and everything that has the shape of a JWT, out of a
// text.
func (s secrets) scrub(text string) string {
	if s.replacer != nil {
		text = s.replacer.Replace(text)
	}
	return Redact(text)
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
