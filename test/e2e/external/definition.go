package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	storagev1 "k8s.io/api/storage/v1"
	"sigs.k8s.io/yaml"

	"github.com/holdfast-csi/holdfast/test/cluster"
)

// What the tree says of the driver.
const (
	definitionFile = "test/e2e/external/driver.yaml"
	classFile      = "test/e2e/external/storageclass.yaml"
)

const fsTypeKey = "csi.storage.k8s.io/fstype"

// writeDefinition writes the definition of the driver, with what only the running
// cluster and the flags can tell, and its class into the directory of the run. It
// returns the path of the definition.
func writeDefinition(ctx context.Context, c *cluster.Cluster, suite cluster.Suite, o options) (string, error) {
	definition, err := readYAML(definitionFile)
	if err != nil {
		return "", err
	}
	known, err := knownCapabilities(suite.Source)
	if err != nil {
		return "", err
	}
	info, err := child(definition, "DriverInfo")
	if err != nil {
		return "", fmt.Errorf("%s: %w", definitionFile, err)
	}
	capabilities, err := child(info, "Capabilities")
	if err != nil {
		return "", fmt.Errorf("%s: %w", definitionFile, err)
	}
	if err := checkCapabilities(capabilities, known); err != nil {
		return "", fmt.Errorf("%s, for Kubernetes %s: %w", definitionFile, suite.Version, err)
	}
	if o.fsType == "ext4" && !mayGrowMountedExt4() {
		fmt.Println("ext4 does not grow here while it is mounted: this machine has no CAP_SYS_RESOURCE, so the tests of that are skipped")
		capabilities["onlineExpansion"] = false
	}
	if info["TopologyKeys"], err = topologyKeys(ctx, c, fmt.Sprint(info["Name"])); err != nil {
		return "", err
	}
	info["StressTestOptions"] = map[string]any{"NumPods": o.stress, "NumRestarts": o.stress}
	info["VolumeSnapshotStressTestOptions"] = map[string]any{"NumPods": (o.stress + 1) / 2, "NumSnapshots": o.stress}
	class, err := filepath.Abs(filepath.Join(o.out, "storageclass.yaml"))
	if err != nil {
		return "", err
	}
	if err := writeClass(class, o.fsType, o.binding); err != nil {
		return "", err
	}
	definition["StorageClass"] = map[string]any{"FromFile": class}
	return writeYAML(filepath.Join(o.out, "driver.yaml"), definition)
}

// mayGrowMountedExt4 reports whether a driver on this machine can have the capability
// that the kernel asks for (fs/ext4/resize.c).
func mayGrowMountedExt4() bool {
	has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, unix.CAP_SYS_RESOURCE, 0, 0, 0)
	return err == nil && has == 1
}

// writeClass writes the class with a filesystem and a binding mode.
func writeClass(file, fsType, binding string) error {
	if !slices.Contains([]string{"ext4", "xfs"}, fsType) {
		return fmt.Errorf("-fstype=%s: want ext4 or xfs", fsType)
	}
	modes := []string{string(storagev1.VolumeBindingWaitForFirstConsumer), string(storagev1.VolumeBindingImmediate)}
	if !slices.Contains(modes, binding) {
		return fmt.Errorf("-binding=%s: want %s", binding, strings.Join(modes, " or "))
	}
	class, err := readYAML(classFile)
	if err != nil {
		return err
	}
	parameters, err := child(class, "parameters")
	if err != nil {
		return fmt.Errorf("%s: %w", classFile, err)
	}
	parameters[fsTypeKey], class["volumeBindingMode"] = fsType, binding
	_, err = writeYAML(file, class)
	return err
}

// capabilityLine is how upstream's test/e2e/storage/framework/testdriver.go declares
// one.
var capabilityLine = regexp.MustCompile(`(?m)^\s*Cap\w+\s+Capability\s*=\s*"(\w+)"`)

// knownCapabilities are those that the tests of a version of Kubernetes ask for.
func knownCapabilities(source string) ([]string, error) {
	file := filepath.Join(source, "test/e2e/storage/framework/testdriver.go")
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var known []string
	for _, m := range capabilityLine.FindAllStringSubmatch(string(text), -1) {
		known = append(known, m[1])
	}
	if len(known) == 0 {
		return nil, fmt.Errorf("%s declares no capability: has its form changed?", file)
	}
	return known, nil
}

// checkCapabilities wants each that is known to be there, true or false, and no
// other.
func checkCapabilities(have map[string]any, known []string) error {
	for _, name := range known {
		if _, ok := have[name].(bool); !ok {
			return fmt.Errorf("the capability %s must be there, true or false", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(have)) {
		if !slices.Contains(known, name) {
			return fmt.Errorf("no test knows the capability %s", name)
		}
	}
	return nil
}

// topologyKeys are those that the driver gave to kubelet: the node's, and one for
// each pool.
func topologyKeys(ctx context.Context, c *cluster.Cluster, driver string) ([]string, error) {
	out, err := c.Kubectl(ctx, "get", "csinode", cluster.NodeName, "-o", "json")
	if err != nil {
		return nil, err
	}
	var node storagev1.CSINode
	if err := json.Unmarshal([]byte(out), &node); err != nil {
		return nil, fmt.Errorf("read the CSINode of %s: %w", cluster.NodeName, err)
	}
	var names []string
	for _, d := range node.Spec.Drivers {
		if d.Name == driver {
			return d.TopologyKeys, nil
		}
		names = append(names, d.Name)
	}
	return nil, fmt.Errorf("%s is not registered on %s, which has [%s]", driver, cluster.NodeName, strings.Join(names, " "))
}

func readYAML(file string) (map[string]any, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var content map[string]any
	if err := yaml.UnmarshalStrict(data, &content); err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	return content, nil
}

// writeYAML returns the absolute path of what it wrote.
func writeYAML(file string, content map[string]any) (string, error) {
	data, err := yaml.Marshal(content)
	if err != nil {
		return "", fmt.Errorf("write %s: %w", file, err)
	}
	if err := os.WriteFile(file, data, 0o644); err != nil {
		return "", err
	}
	return filepath.Abs(file)
}

// child is a map inside another.
func child(of map[string]any, name string) (map[string]any, error) {
	m, ok := of[name].(map[string]any)
	if !ok {
		return nil, fmt.Errorf("%s is missing, or is not a map", name)
	}
	return m, nil
}
