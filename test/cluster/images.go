package cluster

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const (
	pauseImage    = "holdfast.test/pause:1"
	busyboxImage  = "holdfast.test/busybox:1"
	workloadImage = "holdfast.test/workload:1"
	// examplesImage is what a user's cluster gets from its registry.
	examplesImage = "docker.io/library/busybox"
	driverName    = "ghcr.io/holdfast-csi/holdfast"
	sidecarName   = "registry.k8s.io/sig-storage/"
)

// imageMaker makes the root filesystem of an image in dir and says which program
// it runs.
type imageMaker func(ctx context.Context, dir string) (entrypoint string, err error)

// maker finds how to make the image that ref names. An image that a manifest
// names and nobody here can make is an error: it would never start.
func (l layout) maker(ref string) (imageMaker, error) {
	name, tag, _ := strings.Cut(ref, ":")
	switch {
	case ref == pauseImage:
		return l.busybox("/pause", nil), nil
	case ref == busyboxImage || name == examplesImage:
		return l.busybox("", nil), nil
	case ref == workloadImage:
		return l.busybox("", map[string]string{"/workload": "./test/e2e/workload"}), nil
	case name == driverName:
		return l.driverRootFS(tag, nil), nil
	case name == sidecarName+"csi-node-driver-registrar":
		// Upstream's is no module that can be downloaded.
		return l.single("/csi-node-driver-registrar", func(ctx context.Context, out string) error {
			return l.buildHere(ctx, out, "./test/registrar")
		}), nil
	case strings.HasPrefix(name, suiteName):
		return l.suiteMaker(ref)
	case ref == populatorImage:
		// Upstream's is no module that can be downloaded.
		return l.single("/hello-populator", func(ctx context.Context, out string) error {
			return l.buildHere(ctx, out, "./test/populator")
		}), nil
	case strings.HasPrefix(name, sidecarName):
		program := strings.TrimPrefix(name, sidecarName)
		if !slices.ContainsFunc(l.programs(), func(s source) bool {
			return s.version == tag && slices.Contains(s.packages, "cmd/"+program)
		}) {
			return nil, fmt.Errorf("%s is not of the programs and versions that are built here", ref)
		}
		return l.single("/"+program, func(_ context.Context, out string) error { return copyFile(l.bin(program), out) }), nil
	}
	return nil, fmt.Errorf("nobody here knows how to make %s", ref)
}

// isOurs reports whether an image is made from this tree, so that it may change
// while its name stays.
func isOurs(ref string) bool {
	return strings.HasPrefix(ref, driverName+":") || ref == workloadImage || strings.HasPrefix(ref, sidecarName+"csi-node-driver-registrar:") || ref == populatorImage
}

// single is an image of one static program, which runs as anybody.
func (l layout) single(program string, make func(ctx context.Context, out string) error) imageMaker {
	return func(ctx context.Context, dir string) (string, error) {
		return program, make(ctx, filepath.Join(dir, program))
	}
}

// busybox is Debian's static busybox with all its applets, and programs of ours.
// pause is one that sleeps.
func (l layout) busybox(entrypoint string, programs map[string]string) imageMaker {
	return func(ctx context.Context, dir string) (string, error) {
		bin := filepath.Join(dir, "bin")
		for _, d := range []string{"bin", "etc", "tmp", "root"} {
			if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
				return "", err
			}
		}
		if err := os.Chmod(filepath.Join(dir, "tmp"), 0o1777|os.ModeSticky); err != nil {
			return "", err
		}
		if err := copyFile("/bin/busybox", filepath.Join(bin, "busybox")); err != nil {
			return "", err
		}
		list, err := command(ctx, "/bin/busybox", "--list")
		if err != nil {
			return "", err
		}
		for applet := range strings.FieldsSeq(list) {
			if applet != "busybox" {
				if err := os.Symlink("busybox", filepath.Join(bin, applet)); err != nil {
					return "", err
				}
			}
		}
		users := "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n"
		if err := os.WriteFile(filepath.Join(dir, "etc/passwd"), []byte(users), 0o644); err != nil {
			return "", err
		}
		for to, pkg := range programs {
			if err := l.buildHere(ctx, filepath.Join(dir, to), pkg); err != nil {
				return "", err
			}
		}
		if entrypoint == "" {
			return "/bin/sh", nil
		}
		script := "#!/bin/sh\nexec /bin/sleep 2147483647\n"
		return entrypoint, os.WriteFile(filepath.Join(dir, entrypoint), []byte(script), 0o755)
	}
}

// driverRootFS is the image that `make image` makes.
func (l layout) driverRootFS(version string, tags []string) imageMaker {
	return func(ctx context.Context, dir string) (string, error) {
		driver := l.bin("build", "driver")
		if err := l.buildHere(ctx, driver, "./cmd/driver", "-ldflags", "-s -w -X main.version="+version, "-tags", strings.Join(tags, ",")); err != nil {
			return "", err
		}
		_, err := command(ctx, filepath.Join(l.tree, "hack/image-rootfs.sh"), driver, dir)
		return "/driver", err
	}
}

// buildHere builds a package of this tree.
func (l layout) buildHere(ctx context.Context, out, pkg string, flags ...string) error {
	_, err := goCommand(ctx, l.tree, append(append([]string{"build", "-trimpath", "-o", out}, flags...), pkg)...)
	return err
}

// importImage makes the image and gives it to containerd under the name ref.
func (l layout) importImage(ctx context.Context, ref string, make imageMaker) error {
	dir, err := os.MkdirTemp("", "holdfast-image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	root, tar := filepath.Join(dir, "rootfs"), filepath.Join(dir, "image.tar")
	if err := os.Mkdir(root, 0o755); err != nil {
		return err
	}
	entrypoint, err := make(ctx, root)
	if err != nil {
		return fmt.Errorf("make the image %s: %w", ref, err)
	}
	if _, err := goCommand(ctx, l.tree, "run", "./hack/archive", "-rootfs", root, "-tag", ref, "-entrypoint", entrypoint, "-out", tar); err != nil {
		return fmt.Errorf("make the image %s: %w", ref, err)
	}
	if _, err := command(ctx, "ctr", "-a", containerdSocket, "-n", "k8s.io", "images", "import", tar); err != nil {
		return fmt.Errorf("import the image %s: %w", ref, err)
	}
	return nil
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}

// imagesIn are the images that rendered manifests name, each once.
func imagesIn(manifests string) []string {
	var refs []string
	for line := range strings.Lines(manifests) {
		if ref, ok := strings.CutPrefix(strings.TrimLeft(strings.TrimSpace(line), "- "), "image: "); ok {
			refs = append(refs, strings.Trim(ref, `"'`))
		}
	}
	slices.Sort(refs)
	return slices.Compact(refs)
}
