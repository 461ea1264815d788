package hostile

import (
	"strings"
	"testing"

	"github.com/holdfast-csi/holdfast/pkg/podtoken"
	"github.com/holdfast-csi/holdfast/pkg/rpc"
)

// TestWhatIsReadAsTokensIsRedactedAsTokens: two packages name the key under which
// kubelet passes them, and neither imports the other.
func TestWhatIsReadAsTokensIsRedactedAsTokens(t *testing.T) {
	if rpc.TokensKey != podtoken.KeyTokens {
		t.Errorf("tokens are read from %q and redacted at %q", podtoken.KeyTokens, rpc.TokensKey)
	}
	if !strings.HasPrefix(podtoken.KeyPodName, strings.TrimSuffix(rpc.TokensKey, "serviceAccount.tokens")) {
		t.Errorf("%q is no key of Kubernetes' own", podtoken.KeyPodName)
	}
}
