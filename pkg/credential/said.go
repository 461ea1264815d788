package credential

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// maxSaid bounds what of a service's error goes into ours, in bytes.
const maxSaid = 300

// said is what a service calls its error, made fit to be shown: one line of limited
// length, in which nothing that may be a secret is left. A service may quote what it
// was sent, or what it should have given: a broken template of a database login quotes
// the password. So of its text stay plain words, short numbers, network addresses, and
// what our own error says anyway (shown). Everything else is ***, and so is hide.
func said(text string, shown []string, hide ...string) string {
	for _, h := range hide {
		if h != "" {
			text = strings.ReplaceAll(text, h, "***")
		}
	}
	words := strings.FieldsFunc(strings.ToValidUTF8(text, "?"), func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) })
	text = strings.Join(words, " ")
	if len(text) > maxScanned {
		text = strings.ToValidUTF8(text[:maxScanned], "")
		text = text[:strings.LastIndexByte(text, ' ')+1] + "..."
	}
	// One may be a part of another.
	shown = slices.SortedFunc(slices.Values(shown), func(a, b string) int { return len(b) - len(a) })
	text = wordShape.ReplaceAllStringFunc(text, func(word string) string {
		if isPlain(word, shown) {
			return word
		}
		return "***"
	})
	if len(text) > maxSaid {
		text = strings.ToValidUTF8(text[:maxSaid], "") + "..."
	}
	return text
}

// maxScanned bounds what is looked at, in bytes. It is larger than maxSaid so that a
// word which is cut there has been looked at as a whole.
const maxScanned = 16 << 10

var (
	// wordShape is what stands between spaces, quotes, brackets and commas: a secret may
	// have all other characters.
	wordShape = regexp.MustCompile("[^\\s\"'`()\\[\\]{}<>,;]+")
	// plainPart is a word of English, of a protocol, or a status.
	plainPart = regexp.MustCompile(`^(?:[A-Za-z]?[a-z]{0,15}|[A-Z]{1,5}|[0-9]{1,3}|x509|v[12])$`)
	separator = regexp.MustCompile(`[./:=@_-]+`)
)

// maxJoined is how many words may be joined to one: more of them may be a pass phrase.
const maxJoined = 3

// isPlain says whether a word cannot be a secret, or is shown anyway.
func isPlain(word string, shown []string) bool {
	word = strings.Trim(word, ".:!?*")
	if _, err := netip.ParseAddrPort(word); err == nil {
		return true
	}
	if _, err := netip.ParseAddr(word); err == nil {
		return true
	}
	unknown := 0
	for _, part := range separator.Split(without(word, shown), -1) {
		if !plainPart.MatchString(part) {
			return false
		}
		if part != "" {
			unknown++
		}
	}
	return unknown <= maxJoined
}

// without is a word without those texts in it that are shown anyway.
func without(word string, shown []string) string {
	const short = 3 // is in many words by chance
	for _, s := range shown {
		if len(s) > short {
			word = strings.ReplaceAll(word, s, "/")
		}
	}
	return word
}

// shown is what an error of this service says beside what the service said: words that
// need not be hidden.
func (s *service) shown(doing string) []string { return append(strings.Fields(doing), s.host) }
