package cluster

import (
	"context"
	"io"
	"os"
)

// vault is HashiCorp Vault, the last version under the MPL. It is not among programs:
// most of what a cluster is used for needs none.
func vault() source {
	const sdk, version = "github.com/hashicorp/vault/sdk", "v0.9.2"
	return source{
		name: "vault", module: "github.com/hashicorp/vault", version: "v1.14.1", packages: []string{""},
		// The sdk that its repository had then was never published as such. This one, a
		// little newer, refuses to start with three paths of Vault v1.14.1, which only
		// say that they are of the enterprise edition.
		require: map[string]string{sdk: version},
		patches: []patch{{
			module: sdk, version: version, file: "framework/backend.go",
			from: "if p.ExistenceCheck == nil {", to: "if false {",
		}},
	}
}

// BuildVault builds Vault beside the programs of the cluster, unless it is there, and
// returns the path of the program: server and command line. It takes nine minutes of
// processor time, and needs no cluster.
func BuildVault(ctx context.Context, log io.Writer) (string, error) {
	l, err := findTree()
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(l.bin("build"), 0o755); err != nil {
		return "", err
	}
	return l.bin("vault"), vault().build(ctx, l.bin(), log)
}
