package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func newRootFS(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := errors.Join(
		os.Mkdir(filepath.Join(dir, "tmp"), 0o755),
		os.Chmod(filepath.Join(dir, "tmp"), os.ModeSticky|0o777),
		os.WriteFile(filepath.Join(dir, "driver"), []byte("a program"), 0o755),
		os.Symlink("/driver", filepath.Join(dir, "link")),
	); err != nil {
		t.Fatal(err)
	}
	return dir
}

func archiveOf(t *testing.T, rootfs string) []byte {
	t.Helper()
	var b bytes.Buffer
	i := image{rootfs: rootfs, tag: "holdfast:v1", entrypoint: driverProgram, created: time.Unix(1700000000, 0).UTC(), architecture: "amd64"}
	if err := i.write(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// files are the entries of a tar by name, each as its header and content.
func files(t *testing.T, archive []byte) map[string]string {
	t.Helper()
	found := map[string]string{}
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		found[h.Name] = string(content)
		if h.Typeflag != tar.TypeReg || strings.HasPrefix(h.Name, "driver") {
			found[h.Name] = fmt.Sprintf("%c %o %d:%d %d %s%s", h.Typeflag, h.Mode, h.Uid, h.Gid, h.ModTime.Unix(), h.Linkname, content)
		}
	}
}

func TestArchiveHoldsTheImage(t *testing.T) {
	archive := files(t, archiveOf(t, newRootFS(t)))
	var manifests []manifest
	if err := json.Unmarshal([]byte(archive["manifest.json"]), &manifests); err != nil {
		t.Fatal(err)
	}
	if len(manifests) != 1 || !cmp.Equal(manifests[0].RepoTags, []string{"holdfast:v1"}) || len(manifests[0].Layers) != 1 {
		t.Fatalf("the manifest is %+v", manifests)
	}
	var c config
	if err := json.Unmarshal([]byte(archive[manifests[0].Config]), &c); err != nil {
		t.Fatal(err)
	}
	layer := archive[manifests[0].Layers[0]]
	if want := []string{"sha256:" + digest([]byte(layer))}; !cmp.Equal(c.RootFS.DiffIDs, want) {
		t.Errorf("the layer is %v, want %v", c.RootFS.DiffIDs, want)
	}
	want := map[string]string{
		"tmp/":   "5 1777 0:0 1700000000 ",
		"driver": "0 755 0:0 1700000000 a program",
		"link":   "2 777 0:0 1700000000 /driver",
	}
	if diff := cmp.Diff(want, files(t, []byte(layer))); diff != "" {
		t.Errorf("the layer differs (-want +got):\n%s", diff)
	}
}

func TestSameFilesMakeTheSameBytes(t *testing.T) {
	if !bytes.Equal(archiveOf(t, newRootFS(t)), archiveOf(t, newRootFS(t))) {
		t.Error("two images of the same files differ")
	}
}

func TestPipeHasNoPlaceInTheImage(t *testing.T) {
	dir := newRootFS(t)
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := image{rootfs: dir}.write(io.Discard)
	if err == nil || !strings.Contains(err.Error(), "pipe is neither") {
		t.Errorf("got %v", err)
	}
}

func TestDockerfileSaysTheSame(t *testing.T) {
	text, err := os.ReadFile("../../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	entry, err := json.Marshal([]string{driverProgram})
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"ENTRYPOINT " + string(entry), "ENV " + environment()[0], "COPY dist/rootfs/ /"} {
		if !strings.Contains(string(text), line+"\n") {
			t.Errorf("the Dockerfile does not say %s", line)
		}
	}
}

func TestTimeIsReadOrRefused(t *testing.T) {
	for text, want := range map[string]int64{"": 0, "1700000000": 1700000000, "yesterday": -1} {
		got, err := epoch(text)
		if (want < 0) != (err != nil) || err == nil && got.Unix() != want {
			t.Errorf("%q: got %v, %v", text, got, err)
		}
	}
}
