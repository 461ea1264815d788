package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// claimFile says that the machine is this cluster's, and how it was before. Down
// acts only where it is, and removes it last.
const claimFile = dataDir + "/claim.json"

// claim is how the machine was before.
type claim struct {
	// Absent are directories that others may have, too, and that were not there.
	Absent []string `json:"absent"`
	// Settings are those that kubelet and the CNI plugins change, by path.
	Settings map[string]string `json:"settings"`
	// Namespaces are the network namespaces of somebody else's containers.
	Namespaces []string `json:"namespaces"`
}

// sharedDirs are made by containerd, the CNI plugins and kubelet wherever they are
// told to work.
func sharedDirs() []string {
	return []string{"/run/containerd", "/var/lib/cni", "/opt/containerd", "/var/log/containers", "/var/log/pods"}
}

func settings() []string {
	return []string{
		"/proc/sys/vm/overcommit_memory", "/proc/sys/vm/panic_on_oom", "/proc/sys/kernel/panic", "/proc/sys/kernel/panic_on_oops",
		"/proc/sys/kernel/keys/root_maxkeys", "/proc/sys/kernel/keys/root_maxbytes", "/proc/sys/net/ipv4/ip_forward",
	}
}

// claimMachine makes the machine this cluster's, unless it is. It refuses one where
// a kubelet or a Holdfast is at home already.
func claimMachine() error {
	if _, err := readClaim(); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := errors.Join(checkVacant(KubeletDir), checkVacant(HoldfastDir)); err != nil {
		return err
	}
	if groups := podCgroups(); len(groups) > 0 {
		return fmt.Errorf("%s exists: this machine seems to be a node of another cluster, whose pods this one would take for its own", groups[0])
	}
	c := claim{Settings: map[string]string{}, Namespaces: networkNamespaces()}
	for _, dir := range sharedDirs() {
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			c.Absent = append(c.Absent, dir)
		}
	}
	for _, path := range settings() {
		if value, err := os.ReadFile(path); err == nil { // not every kernel has each
			c.Settings[path] = strings.TrimSpace(string(value))
		}
	}
	data, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dataDir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(claimFile, data, 0o644)
}

func checkVacant(dir string) error {
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return fmt.Errorf("%s is not empty: this machine seems to be a node of another cluster, and this one needs the directory for itself", dir)
	}
	return nil
}

// readClaim is fs.ErrNotExist if the machine is not this cluster's.
func readClaim() (claim, error) {
	data, err := os.ReadFile(claimFile)
	if err != nil {
		return claim{}, err
	}
	var c claim
	if err := json.Unmarshal(data, &c); err != nil {
		return claim{}, fmt.Errorf("read %s: %w", claimFile, err)
	}
	return c, nil
}

// release gives the machine back: directories, settings, and last the claim.
func (c claim) release() error {
	var errs []error
	for _, dir := range append([]string{KubeletDir, HoldfastDir, runDir}, c.Absent...) {
		errs = append(errs, removeTree(dir))
	}
	for path, value := range c.Settings {
		errs = append(errs, os.WriteFile(path, []byte(value), 0o644))
	}
	entries, err := os.ReadDir(dataDir)
	errs = append(errs, err)
	for _, e := range entries {
		if path := filepath.Join(dataDir, e.Name()); path != claimFile {
			errs = append(errs, removeTree(path))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return os.RemoveAll(dataDir)
}

// networkNamespaces are those that CNI has named.
func networkNamespaces() []string {
	names, _ := filepath.Glob("/run/netns/cni-*") // the pattern is well-formed
	return names
}

// ours are the network namespaces that came after the claim.
func (c claim) networkNamespaces() []string {
	return slices.DeleteFunc(networkNamespaces(), func(name string) bool { return slices.Contains(c.Namespaces, name) })
}
