package deploy

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// flagRow is a row of a table in docs/reference/flags.md, which test/docs compares
// with what --help prints.
var flagRow = regexp.MustCompile("(?m)^\\| `(?:-\\w`, `)?(--[a-z-]+)`")

// flagsOf are the flags of a command of the driver, as documented.
func flagsOf(t *testing.T, command string) []string {
	t.Helper()
	document := readFile(t, repository+"/docs/reference/flags.md")
	_, rest, ok := strings.Cut(document, "\n## driver "+command+"\n")
	if !ok {
		t.Fatalf("docs/reference/flags.md says nothing of driver %s", command)
	}
	section, _, _ := strings.Cut(rest, "\n## ")
	var flags []string
	for _, m := range flagRow.FindAllStringSubmatch(section, -1) {
		flags = append(flags, m[1])
	}
	if len(flags) == 0 {
		t.Fatalf("docs/reference/flags.md has no flag of driver %s", command)
	}
	return flags
}

func TestTheDriverHasTheFlagsItIsGiven(t *testing.T) {
	eachPlugin(t, func(t *testing.T, set *appsv1.DaemonSet) {
		for container, command := range map[string]string{"driver": "serve", "freeze-watchdog": "watchdog", "claim-node": "claim-node"} {
			c := containerNamed(t, set.Spec.Template.Spec, container)
			if len(c.Args) == 0 || c.Args[0] != command {
				t.Errorf("%s runs %v, want driver %s", container, c.Args, command)
				continue
			}
			known := flagsOf(t, command)
			for _, a := range c.Args[1:] {
				if flag, _, _ := strings.Cut(a, "="); !slices.Contains(known, flag) {
					t.Errorf("driver %s has no flag %s", command, flag)
				}
			}
		}
	})
}

var variable = regexp.MustCompile(`\$\(([A-Z_]+)\)`)

// A variable that is not set is handed to the program as it is written.
func TestArgumentsNameVariablesThatAreSet(t *testing.T) {
	eachPlugin(t, func(t *testing.T, set *appsv1.DaemonSet) {
		for _, c := range slices.Concat(set.Spec.Template.Spec.InitContainers, set.Spec.Template.Spec.Containers) {
			set := map[string]bool{}
			for _, e := range c.Env {
				set[e.Name] = true
			}
			for _, m := range variable.FindAllStringSubmatch(strings.Join(c.Args, "\n"), -1) {
				if !set[m[1]] {
					t.Errorf("%s is given $(%s), which is not set", c.Name, m[1])
				}
			}
		}
	})
}

// The sidecars run where the claims of one node are made: they see all of them, and
// say to the driver what it needs.
func TestSidecars(t *testing.T) {
	pod := of[*appsv1.DaemonSet](render(t, singleNode))[0].Spec.Template.Spec
	for name, want := range map[string][]string{
		"csi-provisioner": {
			"--strict-topology", "--immediate-topology=false", "--enable-capacity", "--capacity-ownerref-level=1",
			"--extra-create-metadata",
		},
		"csi-snapshotter": {"--extra-create-metadata", "--feature-gates=CSIVolumeGroupSnapshot=false"},
		"csi-resizer":     {"--handle-volume-inuse-error=false"},
	} {
		c := containerNamed(t, pod, name)
		for _, a := range want {
			if !slices.Contains(c.Args, a) {
				t.Errorf("%s lacks %s", name, a)
			}
		}
		for _, a := range c.Args {
			if strings.HasPrefix(a, "--node-deployment") || strings.HasPrefix(a, "--leader-election") {
				t.Errorf("%s has %s, which is for another shape of cluster", name, a)
			}
		}
	}
	for _, name := range []string{"NAMESPACE", "POD_NAME"} { // --enable-capacity reads them
		if c := containerNamed(t, pod, "csi-provisioner"); !slices.ContainsFunc(c.Env, func(e corev1.EnvVar) bool { return e.Name == name }) {
			t.Errorf("csi-provisioner lacks the variable %s", name)
		}
	}
}
