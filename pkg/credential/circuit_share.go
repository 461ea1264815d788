package credential

import "crypto/x509"

// asker is a Source that asks services.
type asker interface{ services() []*service }

func (v *vault) services() []*service { return []*service{v.service} }
func (a *aws) services() []*service   { return []*service{a.service} }

func (e *exchange) services() []*service {
	if e.iam == nil {
		return []*service{e.service}
	}
	return []*service{e.service, e.iam}
}

// shareCircuits gives sources at one address, such as those for two auth methods of one
// Vault, one circuit: what the pods of one find out about it holds for the pods of the
// other. Sources that believe other authorities do not share it, since a certificate
// may be wrong for one of them alone.
func shareCircuits(sources map[string]Source) {
	var all []*service
	for _, source := range sources {
		if a, ok := source.(asker); ok {
			all = append(all, a.services()...)
		}
	}
	for i, s := range all {
		for _, before := range all[:i] {
			if s.transport.leadsWhere(before.transport) {
				s.circuit = before.circuit
				break
			}
		}
	}
}

// leadsWhere says whether two transports lead to one server by the word of the same
// authorities.
func (t *transport) leadsWhere(u *transport) bool {
	return t.scheme == u.scheme && t.host == u.host && samePool(t.ca, u.ca)
}

func samePool(a, b *x509.CertPool) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Equal(b)
}
