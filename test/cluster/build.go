package cluster

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
)

// source is a module and the programs that are built from it.
type source struct {
	name    string // of the module in this package, and of its stamp file
	module  string
	version string
	// local is the version of the modules that the module's own go.mod replaces by
	// directories of its repository, which nobody can download; "" if they are those
	// that it requires.
	local string
	// stamp is a variable that the linker sets to the version.
	stamp    string
	packages []string
	// foreign are packages of other modules, which the module requires.
	foreign []string
	// tests are packages whose tests are built, each as its last element with .test.
	tests []string
	// dir is where its programs are, if not where the others' are.
	dir string
	// require are versions of modules that the programs need newer than the module says.
	require map[string]string
	// patches are of modules that are built with a change.
	patches []patch
}

// programs are the sources of all that is not in Debian. The sidecars are of the
// versions that the manifests name.
func (l layout) programs() []source {
	return []source{
		{
			name: "kubernetes", module: "k8s.io/kubernetes", version: l.kubernetes, local: "v0" + strings.TrimPrefix(l.kubernetes, "v1"),
			dir: l.kubernetesDir(), stamp: "k8s.io/component-base/version.gitVersion",
			packages: []string{"cmd/kube-apiserver", "cmd/kube-controller-manager", "cmd/kube-scheduler", "cmd/kubelet", "cmd/kubectl"},
		},
		{name: "etcd", module: "go.etcd.io/etcd/server/v3", version: "v3.6.16", local: "v3.6.16", packages: []string{""}},
		{name: "provisioner", module: "github.com/kubernetes-csi/external-provisioner/v6", version: "v6.3.0", packages: []string{"cmd/csi-provisioner"}},
		{
			name: "snapshotter", module: "github.com/kubernetes-csi/external-snapshotter/v8", version: "v8.7.0", local: "v8.7.0",
			packages: []string{"cmd/csi-snapshotter", "cmd/snapshot-controller"},
		},
		{name: "resizer", module: "github.com/kubernetes-csi/external-resizer/v2", version: "v2.3.0", packages: []string{"cmd/csi-resizer"}},
	}
}

// goMod is what `go mod edit -json` prints.
type goMod struct {
	Go      string
	Godebug []struct{ Key, Value string }
	Require []struct{ Path, Version string }
	Replace []struct {
		Old struct{ Path, Version string }
		New struct{ Path, Version string }
	}
}

// module is a go.mod for a main module that has nothing but s: a module's own
// replace lines hold only when it is the main module, so they are taken over.
func (s source) goMod(theirs goMod) string {
	var b strings.Builder
	fmt.Fprintf(&b, "module holdfast.test/build/%s\n\ngo %s\n\n", s.name, theirs.Go)
	for _, g := range theirs.Godebug {
		fmt.Fprintf(&b, "godebug %s=%s\n", g.Key, g.Value)
	}
	fmt.Fprintf(&b, "require %s %s\n", s.module, s.version)
	required := map[string]bool{}
	for _, r := range theirs.Require {
		required[r.Path] = true
		fmt.Fprintf(&b, "require %s %s\n", r.Path, cmp.Or(s.require[r.Path], r.Version))
	}
	for _, p := range s.patches {
		fmt.Fprintf(&b, "replace %s => %s\n", p.module, p.dir())
	}
	for _, r := range theirs.Replace {
		if !required[r.Old.Path] {
			continue
		}
		to := r.New.Path + " " + r.New.Version
		if strings.HasPrefix(r.New.Path, ".") {
			if s.local == "" {
				continue // the versions that it requires can be downloaded
			}
			to = r.Old.Path + " " + s.local
		}
		fmt.Fprintf(&b, "replace %s %s => %s\n", r.Old.Path, r.Old.Version, to)
	}
	return b.String()
}

// changes tells builds of one version apart that differ in what they are built with.
func (s source) changes() string {
	if len(s.require)+len(s.patches) == 0 {
		return ""
	}
	sum := sha256.Sum256(fmt.Append(nil, s.require, s.patches))
	return fmt.Sprintf("+%x", sum[:4])
}

// build builds the programs of s into dir, or its own, unless a stamp says that they
// are there. Its sums are those of the module's own go.sum, and what that lacks is
// checked against the checksum database, as for any module.
func (s source) build(ctx context.Context, dir string, log io.Writer) error {
	if s.dir != "" {
		dir = s.dir
	}
	stamp := filepath.Join(dir, "."+s.name+"-"+s.version+s.changes())
	if _, err := os.Stat(stamp); err == nil {
		return nil
	}
	fmt.Fprintf(log, "building %s %s; the first time this takes a while\n", s.module, s.version)
	work := filepath.Join(dir, "build", s.name)
	if err := os.MkdirAll(work, 0o755); err != nil {
		return err
	}
	if err := s.writeModule(ctx, work); err != nil {
		return fmt.Errorf("prepare the build of %s: %w", s.module, err)
	}
	link := "-s -w"
	if s.stamp != "" {
		link += " -X " + s.stamp + "=" + s.version
	}
	flags := []string{"-mod=mod", "-buildvcs=false", "-trimpath", "-ldflags", link, "-o"}
	args := append(append([]string{"build"}, flags...), dir+"/")
	for _, p := range s.packages {
		args = append(args, strings.TrimSuffix(s.module+"/"+p, "/"))
	}
	if _, err := goCommand(ctx, work, append(args, s.foreign...)...); err != nil {
		return fmt.Errorf("build %s: %w", s.module, err)
	}
	for _, t := range s.tests {
		args := append(append([]string{"test", "-c", "-vet=off"}, flags...), filepath.Join(dir, path.Base(t)+".test"), s.module+"/"+t)
		if _, err := goCommand(ctx, work, args...); err != nil {
			return fmt.Errorf("build the tests of %s/%s: %w", s.module, t, err)
		}
	}
	if s.name == "etcd" { // its main package is called server
		if err := os.Rename(filepath.Join(dir, "server"), filepath.Join(dir, "etcd")); err != nil {
			return err
		}
	}
	return os.WriteFile(stamp, nil, 0o644)
}

func (s source) writeModule(ctx context.Context, work string) error {
	empty := []byte("module holdfast.test/build/" + s.name + "\n")
	if err := os.WriteFile(filepath.Join(work, "go.mod"), empty, 0o644); err != nil {
		return err
	}
	got, err := s.download(ctx, work)
	if err != nil {
		return err
	}
	out, err := goCommand(ctx, work, "mod", "edit", "-json", got.GoMod)
	if err != nil {
		return err
	}
	var theirs goMod
	if err := json.Unmarshal(out, &theirs); err != nil {
		return err
	}
	for _, p := range s.patches {
		if err := p.copy(ctx, work); err != nil {
			return err
		}
	}
	sums, err := os.ReadFile(filepath.Join(got.Dir, "go.sum"))
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	if err := os.WriteFile(filepath.Join(work, "go.sum"), sums, 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(work, "go.mod"), []byte(s.goMod(theirs)), 0o644)
}

// downloaded is where the go command keeps a module.
type downloaded struct{ GoMod, Dir string }

// download finds the module of s, and downloads it if it must; dir is any module.
func (s source) download(ctx context.Context, dir string) (downloaded, error) {
	out, err := goCommand(ctx, dir, "mod", "download", "-json", s.module+"@"+s.version)
	if err != nil {
		return downloaded{}, err
	}
	var got downloaded
	err = json.Unmarshal(out, &got)
	return got, err
}

// goCommand runs the go command and returns its standard output.
func goCommand(ctx context.Context, dir string, args ...string) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &stdout, &stderr
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	if err := cmd.Run(); err != nil {
		text := stderr.String()
		if len(text) > 4000 {
			text = text[len(text)-4000:]
		}
		return nil, fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, text)
	}
	return stdout.Bytes(), nil
}
