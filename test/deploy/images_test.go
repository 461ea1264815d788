package deploy

import (
	"io/fs"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	imageLine = regexp.MustCompile(`(?m)^\s*(?:- )?image: *["']?([^\s"'{}#]+)["']?`)
	// version is a tag that means one release for ever, as far as its publisher keeps
	// to his word.
	version = regexp.MustCompile(`^v?\d+(\.\d+)+([-+.][0-9A-Za-z.-]+)?$`)
)

// Whoever applies the manifests next year gets what was tested. No image has a
// digest: none was ever returned by a registry to those who wrote this tree, and one
// that was not would be made up.
func TestEveryImageHasAVersion(t *testing.T) {
	images := map[string]string{}
	err := filepath.WalkDir(repository+"/deploy", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".yaml") {
			return err
		}
		for _, m := range imageLine.FindAllStringSubmatch(readFile(t, path), -1) {
			images[m[1]] = path
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for image, path := range images {
		if strings.Contains(image, "@") {
			t.Errorf("%s: %s has a digest", path, image)
			continue
		}
		name, tag, ok := strings.Cut(image[strings.LastIndexByte(image, '/')+1:], ":")
		if !ok || !version.MatchString(tag) {
			t.Errorf("%s: the tag of %s is %q, want a version", path, name, tag)
		}
	}
	if len(images) < 6 {
		t.Errorf("only these images were found: %v", images)
	}
}

// make image makes what the manifests name.
func TestTheImageThatIsBuiltIsTheOneThatIsNamed(t *testing.T) {
	built := regexp.MustCompile(`(?m)^IMAGE \?= (\S+)$`).FindStringSubmatch(readFile(t, repository+"/Makefile"))
	if built == nil {
		t.Fatal("the Makefile has no IMAGE")
	}
	for name, pod := range pods(render(t, singleNode)) {
		for _, c := range append(pod.InitContainers, pod.Containers...) {
			if strings.HasPrefix(c.Image, "ghcr.io/holdfast-csi/") && c.Image != built[1] {
				t.Errorf("%s/%s has the image %s, make image makes %s", name, c.Name, c.Image, built[1])
			}
		}
	}
}
