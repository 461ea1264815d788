package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// image is what goes into the archive. The Dockerfile says the same.
type image struct {
	rootfs       string
	tag          string
	entrypoint   string
	created      time.Time
	architecture string
}

// driverProgram is what the image of the driver runs.
const driverProgram = "/driver"

func environment() []string { return []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"} }

// The files of a docker-archive (moby, image/spec/v1.2.md).
type (
	manifest struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	config struct {
		Architecture string        `json:"architecture"`
		OS           string        `json:"os"`
		Created      time.Time     `json:"created"`
		Config       runConfig     `json:"config"`
		RootFS       rootFS        `json:"rootfs"`
		History      []historyItem `json:"history"`
	}
	runConfig struct {
		Entrypoint []string `json:"Entrypoint"`
		Env        []string `json:"Env"`
	}
	rootFS struct {
		Type    string   `json:"type"`
		DiffIDs []string `json:"diff_ids"`
	}
	historyItem struct {
		Created   time.Time `json:"created"`
		CreatedBy string    `json:"created_by"`
	}
)

func (i image) write(out io.Writer) error {
	var layer bytes.Buffer
	if err := i.writeLayer(&layer); err != nil {
		return err
	}
	layerSum := digest(layer.Bytes())
	configJSON, err := json.Marshal(config{
		Architecture: i.architecture, OS: "linux", Created: i.created,
		Config:  runConfig{Entrypoint: []string{i.entrypoint}, Env: environment()},
		RootFS:  rootFS{Type: "layers", DiffIDs: []string{"sha256:" + layerSum}},
		History: []historyItem{{Created: i.created, CreatedBy: "hack/image-rootfs.sh"}},
	})
	if err != nil {
		return err
	}
	configName, layerName := digest(configJSON)+".json", layerSum+".tar"
	manifestJSON, err := json.Marshal([]manifest{{Config: configName, RepoTags: []string{i.tag}, Layers: []string{layerName}}})
	if err != nil {
		return err
	}
	w := tar.NewWriter(out)
	for _, file := range []struct {
		name string
		data []byte
	}{{configName, configJSON}, {layerName, layer.Bytes()}, {"manifest.json", manifestJSON}} {
		header := &tar.Header{Typeflag: tar.TypeReg, Name: file.name, Mode: 0o644, Size: int64(len(file.data)), ModTime: i.created}
		if err := w.WriteHeader(header); err != nil {
			return err
		}
		if _, err := w.Write(file.data); err != nil {
			return err
		}
	}
	return w.Close()
}

// writeLayer writes the root filesystem as a tar, in order of name.
func (i image) writeLayer(out io.Writer) error {
	w := tar.NewWriter(out)
	err := filepath.WalkDir(i.rootfs, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(i.rootfs, path)
		if err != nil || name == "." {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		return i.writeEntry(w, path, name, info)
	})
	if err != nil {
		return err
	}
	return w.Close()
}

func (i image) writeEntry(w *tar.Writer, path, name string, info fs.FileInfo) error {
	header := &tar.Header{Name: name, Mode: int64(info.Mode().Perm()), ModTime: i.created}
	if info.Mode()&fs.ModeSticky != 0 {
		header.Mode |= 0o1000
	}
	switch {
	case info.Mode().IsRegular():
		header.Typeflag, header.Size = tar.TypeReg, info.Size()
	case info.IsDir():
		header.Typeflag, header.Name = tar.TypeDir, name+"/"
	case info.Mode()&fs.ModeSymlink != 0:
		target, err := os.Readlink(path)
		if err != nil {
			return err
		}
		header.Typeflag, header.Linkname = tar.TypeSymlink, target
	default:
		return fmt.Errorf("%s is neither a file nor a directory nor a link (%s): it has no place in the image", name, info.Mode().Type())
	}
	if err := w.WriteHeader(header); err != nil || header.Typeflag != tar.TypeReg {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
