package credential

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/secret"
)

// fieldsOf are the fields of a JSON object as texts: a text as it is, a list of texts
// line by line, anything else as JSON.
func fieldsOf(data map[string]any) map[string]secret.Text {
	fields := make(map[string]secret.Text, len(data))
	for name, value := range data {
		fields[name] = secret.New(textOf(value))
	}
	return fields
}

func textOf(value any) string {
	switch v := value.(type) {
	case nil:
		return ""
	case string:
		return v
	case json.Number:
		return v.String()
	case []any:
		var lines []string
		for _, e := range v {
			text, ok := e.(string)
			if !ok {
				lines = nil
				break
			}
			lines = append(lines, strings.TrimRight(text, "\n"))
		}
		if lines != nil {
			return strings.Join(lines, "\n")
		}
	}
	text, err := json.Marshal(value)
	if err != nil {
		return "" // nothing that came out of JSON
	}
	return string(text)
}

// FieldChain is a field that a certificate of PKI gets beside Vault's own: the
// certificate and all that lead from it to its root, as servers want them in one file.
const FieldChain = "certificate_chain"

// completeCertificate adds FieldChain and gives the end of the certificate, which was
// got at a time of this machine's clock. A certificate whose private key is another's
// is an error.
func completeCertificate(fields map[string]secret.Text, begin time.Time) (expires time.Time, err error) {
	certificate := strings.TrimRight(fields["certificate"].Reveal(), "\n") + "\n"
	chain := certificate
	if rest := firstOf(fields["ca_chain"].Reveal(), fields["issuing_ca"].Reveal()); rest != "" {
		chain += strings.TrimRight(rest, "\n") + "\n"
	}
	fields[FieldChain] = secret.New(chain)
	block, _ := pem.Decode([]byte(certificate))
	if block == nil {
		return time.Time{}, errors.New("its answer has no certificate in PEM")
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return time.Time{}, errors.New("the certificate in its answer cannot be read")
	}
	if key := fields["private_key"].Reveal(); key != "" {
		if _, err := tls.X509KeyPair([]byte(certificate), []byte(key)); err != nil {
			return time.Time{}, errors.New("the private key in its answer is not that of the certificate")
		}
	}
	expires = endOf(leaf, begin)
	if expires.Sub(begin) > maxLife {
		return time.Time{}, fmt.Errorf("the certificate in its answer is valid until %s", leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	return expires, nil
}

// endOf is when a certificate that was got at begin ends, by the clock of begin: if
// that is behind the issuer's, then before it shows NotAfter.
func endOf(c *x509.Certificate, begin time.Time) time.Time {
	return notAfter(c.NotAfter, begin, c.NotAfter.Sub(c.NotBefore))
}

// endInside is an end that is among the fields: of a certificate, or, as Vault's
// engines write it, in seconds since 1970 (expiration) or from begin (ttl); the earlier
// of the two, since only the second is by the clock of begin. It is zero if there is
// none that makes sense.
func (c Credential) endInside(begin time.Time) time.Time {
	if block, _ := pem.Decode([]byte(c.Fields["certificate"].Reveal())); block != nil {
		if leaf, err := x509.ParseCertificate(block.Bytes); err == nil {
			return endOf(leaf, begin)
		}
	}
	var end time.Time
	if n, err := strconv.ParseInt(c.Fields["ttl"].Reveal(), 10, 64); err == nil && n > 0 && n <= int64(maxLife/time.Second) {
		end = begin.Add(time.Duration(n) * time.Second)
	}
	if n, err := strconv.ParseInt(c.Fields["expiration"].Reveal(), 10, 64); err == nil {
		at := time.Unix(n, 0)
		if at.After(begin) && at.Sub(begin) <= maxLife && (end.IsZero() || at.Before(end)) {
			return at
		}
	}
	return end
}

// notAfter is the end that a service gives, or that of the life that was asked for at
// begin, if that is earlier: the service's clock may be ahead of this machine's.
func notAfter(end, begin time.Time, life time.Duration) time.Time {
	if own := begin.Add(life); own.Before(end) {
		return own
	}
	return end
}
