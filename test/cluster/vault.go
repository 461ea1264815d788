package cluster

import (
	"context"
	"io"
)

// vault is HashiCorp Vault, the last version under the MPL. It is not among programs,
// for most of what a cluster is used for needs none, and its build takes long.
func vault() source {
	return source{name: "vault", module: "github.com/hashicorp/vault", version: "v1.14.1", packages: []string{""}}
}

// BuildVault builds the program vault beside those of the cluster, unless it is there.
func BuildVault(ctx context.Context, log io.Writer) error {
	l, err := findTree()
	if err != nil {
		return err
	}
	return vault().build(ctx, l.bin(), log)
}
