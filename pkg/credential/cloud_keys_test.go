package credential

import (
	"errors"
	"fmt"
	"net/http"
	"testing"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// TestACloudThatCannotFetchTheKeysRefusesNobody: clouds fetch the cluster's keys from
// where its issuer is, and answer as if the token were wrong when they cannot.
func TestACloudThatCannotFetchTheKeysRefusesNobody(t *testing.T) {
	for request, text := range map[string]string{
		ofAWS: `<ErrorResponse><Error><Type>Sender</Type><Code>InvalidIdentityToken</Code>` +
			`<Message>Couldn't retrieve verification key from your identity provider,  please reference AssumeRoleWithWebIdentity documentation for requirements</Message></Error></ErrorResponse>`,
		ofFederation: `{"error":"invalid_grant","error_description":"Error connecting to the given credential's issuer."}`,
	} {
		t.Run(request, func(t *testing.T) {
			server := newFaultyCloud(t, request, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(http.StatusBadRequest)
				_, _ = fmt.Fprint(w, text)
			})
			s, role := cloudAt(t, request, server.URL, server.ca())
			session, token := s.Open(role), tokenFor(t, s.Audience())
			for range 2 * toOpen {
				_, err := session.Read(t.Context(), token, Read{})
				wantErr(t, err, volume.ErrUnavailable, "it cannot fetch the keys of the cluster")
				if errors.Is(err, volume.ErrDenied) || errors.Is(err, ErrLogin) {
					t.Errorf("it passes for a refusal: %v", err)
				}
			}
			// Another pod may use another description of the cluster there.
			if _, away := s.Away(); away {
				t.Error("the service passes for away")
			}
		})
	}
}
