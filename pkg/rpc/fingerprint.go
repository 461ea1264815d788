package rpc

import (
	"crypto/sha256"
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// fingerprint is equal for two calls that ask for the same thing.
type fingerprint [sha256.Size]byte

// fingerprintOf is the same for two calls of one method whose requests are equal
// but for secrets and for what Kubernetes adds of its own: kubelet repeats a call
// with fresh tokens. Who joins an operation gets what it does with the tokens that it
// began with; newer ones count from the next call on.
func fingerprintOf(method string, req any) fingerprint {
	msg, ok := req.(proto.Message)
	if !ok {
		return sha256.Sum256([]byte(method))
	}
	clean := proto.Clone(msg)
	dropSecrets(clean.ProtoReflect())
	// Deterministic within one build of this program, which is all that the life
	// of an operation needs.
	bytes, err := proto.MarshalOptions{Deterministic: true}.Marshal(clean)
	if err != nil {
		// Only a string that is not UTF-8 can do this; validate refuses those.
		bytes = []byte(clean.(fmt.Stringer).String())
	}
	return sha256.Sum256(append([]byte(method+"\x00"), bytes...))
}

// kubernetesPrefix starts the keys that kubelet and the sidecars add to the maps
// of a request, the tokens among them. They are of no volume.
const kubernetesPrefix = "csi.storage.k8s.io/"

// dropSecrets removes the secret fields, and every key of Kubernetes' own, from a
// message.
func dropSecrets(m protoreflect.Message) {
	walkMessages(m, func(m protoreflect.Message) bool {
		m.Range(func(field protoreflect.FieldDescriptor, v protoreflect.Value) bool {
			switch {
			case isSecret(field):
				m.Clear(field)
			case field.IsMap() && field.MapKey().Kind() == protoreflect.StringKind:
				dropKubernetesKeys(v.Map())
			}
			return true
		})
		return true
	})
}

func dropKubernetesKeys(m protoreflect.Map) {
	var found []protoreflect.MapKey
	m.Range(func(k protoreflect.MapKey, _ protoreflect.Value) bool {
		if strings.HasPrefix(k.String(), kubernetesPrefix) {
			found = append(found, k)
		}
		return true
	})
	for _, k := range found {
		m.Clear(k)
	}
}
