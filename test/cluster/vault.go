package cluster

import (
	"context"
	"io"
	"os"
	"regexp"
)

// vault is HashiCorp Vault, the last version under the MPL. It is not among programs:
// most of what a cluster is used for needs none.
//
// Most of Vault's code is for other people's clouds and databases, and most of the time
// of its build. That is left out: the server, its storage in memory, the command line,
// the auth methods kubernetes and jwt, and the engines kv, pki and transit are as they
// are in Vault.
func vault() source {
	return source{
		name: "vault", module: "github.com/hashicorp/vault", version: "v1.14.1", packages: []string{""},
		// Nothing that can be downloaded is exactly what v1.14.1 was built with. This has
		// all that it uses, and refuses some paths of the enterprise edition, which answer
		// that they are of that edition: see the cut of logical_system_helpers.go.
		require: map[string]string{"github.com/hashicorp/vault/sdk": "v0.9.2"},
		parts: []part{
			{module: "github.com/hashicorp/vault", cuts: []cut{
				{
					file: "helper/builtinplugins/registry.go",
					drop: regexp.MustCompile(`/vault-plugin-|/vault/builtin/|/vault/plugins/`),
					keep: regexp.MustCompile(`-auth-(jwt|kubernetes)$|-secrets-kv$|/logical/(pki|transit)$|/credential/(approle|userpass)$`),
				},
				{
					file:  "command/commands.go",
					drop:  regexp.MustCompile(`/vault-plugin-auth-|/vault/physical/|/vault/builtin/credential/|/vault/serviceregistration/`),
					keep:  regexp.MustCompile(`/physical/raft$|/credential/(token|userpass)$`),
					names: []string{"AgentCommand", "AgentGenerateConfigCommand", "ProxyCommand"},
				},
				{file: "command/agent.go", whole: true},
				{file: "command/agent_generate_config.go", whole: true},
				{file: "command/proxy.go", whole: true},
				{file: "internalshared/configutil/kms.go", drop: regexp.MustCompile(`/wrappers/(alicloudkms|azurekeyvault|gcpckms|ocikms)/`)},
				{file: "internalshared/configutil/telemetry.go", drop: regexp.MustCompile(`stackdriver|/monitoring/|/circonus$|/datadog$`)},
				{file: "vault/logical_system_helpers.go", names: []string{"logical.CreateOperation"}},
				{file: "vault/raft.go", drop: regexp.MustCompile(`/go-discover/provider/`)},
			}},
			// Where other servers of a Raft cluster are.
			{module: "github.com/hashicorp/go-discover", cuts: []cut{{file: "discover.go", drop: regexp.MustCompile(`/go-discover/provider/`)}}},
		},
	}
}

// BuildVault builds Vault beside the programs of the cluster, unless it is there, and
// returns the path of the program: server and command line. It takes some minutes, and
// needs no cluster.
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
