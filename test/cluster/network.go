package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// cniConfig connects pods to the machine and to nothing else: a bridge, addresses
// of this machine's own, no masquerading.
const cniConfig = `{
  "cniVersion": "1.0.0", "name": "holdfast",
  "plugins": [
    {"type": "bridge", "bridge": "` + bridgeName + `", "isGateway": true, "ipMasq": false, "hairpinMode": true,
     "ipam": {"type": "host-local", "dataDir": "` + runDir + `/ipam", "ranges": [[{"subnet": "` + podCIDR + `"}]], "routes": [{"dst": "0.0.0.0/0"}]}}
  ]
}
`

// addresses are given to the loopback device while the cluster is there.
func addresses() []string { return []string{serviceIP + "/32", nodeIP + "/32"} }

func startNetwork(ctx context.Context) error {
	for _, a := range addresses() {
		if out, err := command(ctx, "ip", "address", "add", a, "dev", "lo"); err != nil && !strings.Contains(out, "File exists") && !strings.Contains(out, "already assigned") {
			return fmt.Errorf("give this machine the address %s: %w", a, err)
		}
	}
	if err := os.MkdirAll(cniDir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(cniDir, "10-holdfast.conflist"), []byte(cniConfig), 0o644)
}

func stopNetwork(ctx context.Context) error {
	var errs []error
	for _, a := range addresses() {
		if out, err := command(ctx, "ip", "address", "del", a, "dev", "lo"); err != nil && !strings.Contains(out, "Cannot assign") && !strings.Contains(out, "not found") {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, stopBridge(ctx))...)
}

// stopBridge removes the device that the bridge plugin made. The pods' own ends
// went with their network namespaces.
func stopBridge(ctx context.Context) error {
	if _, err := os.Stat("/sys/class/net/" + bridgeName); err != nil {
		return nil
	}
	_, err := command(ctx, "ip", "link", "del", bridgeName)
	return err
}

// command runs a program and returns all that it says: its output, and after it its
// errors.
func command(ctx context.Context, name string, args ...string) (string, error) {
	var output, complaints bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = &output, &complaints
	err := cmd.Run()
	out := output.String() + complaints.String()
	if err != nil {
		return out, fmt.Errorf("%s %s: %w: %s", filepath.Base(name), strings.Join(args, " "), err, strings.TrimSpace(out))
	}
	return out, nil
}
