package chart

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const (
	base       = "deploy/kustomize/base"
	components = "deploy/kustomize/components"
	// snapshotController has the CRDs beside what is rendered.
	snapshotController = components + "/snapshot-controller"
	identity           = components + "/identity"
	dashboards         = "deploy/dashboards"
	reference          = "docs/reference/helm-values.md"
)

// plain are the values for deploy/kustomize: no pool, which overlays add.
const plain = `
plainManifests: true
pools: []
snapshotController: {enabled: true}
identity: {enabled: true}
`

// notice stands above each manifest that is generated.
const notice = "# Generated from deploy/helm/holdfast by make manifests: change it there.\n"

// Generated is what the chart is the source of, and what it has copies of because a
// chart can only read its own directory: the content of each file by its path from the
// top of the tree.
func (c Chart) Generated(ctx context.Context) (map[string][]byte, error) {
	rendered, err := c.Render(ctx, Options{Values: plain})
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	for path, text := range rendered {
		name := strings.TrimPrefix(path, "templates/")
		to := filepath.Join(base, name)
		if strings.Contains(name, "/") { // a directory of templates is a component
			to = filepath.Join(components, name)
		}
		files[to] = []byte(notice + text)
	}
	for from, to := range map[string]string{
		filepath.Join(dir, "crds"): filepath.Join(snapshotController, "crds"),
		dashboards:                 filepath.Join(dir, "files"),
	} {
		if err := c.copies(files, from, to); err != nil {
			return nil, err
		}
	}
	values, err := os.ReadFile(filepath.Join(c.Dir(), "values.yaml"))
	if err != nil {
		return nil, err
	}
	page, err := valuesPage(values)
	if err != nil {
		return nil, fmt.Errorf("document values.yaml: %w", err)
	}
	files[reference] = page
	return files, nil
}

func (c Chart) copies(files map[string][]byte, from, to string) error {
	entries, err := os.ReadDir(filepath.Join(c.tree, from))
	if err != nil {
		return err
	}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(c.tree, from, e.Name()))
		if err != nil {
			return err
		}
		files[filepath.Join(to, e.Name())] = data
	}
	return nil
}

// byHand are the files beside the generated ones that are not generated.
var byHand = []string{"kustomization.yaml"}

// Drift compares the tree with what should be generated, and returns what is wrong, a
// line for each file. A file that nothing generates any more counts too.
func (c Chart) Drift(ctx context.Context) ([]string, error) {
	files, err := c.Generated(ctx)
	if err != nil {
		return nil, err
	}
	var drift []string
	for path, want := range files {
		have, err := os.ReadFile(filepath.Join(c.tree, path))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			drift = append(drift, path+" is missing")
		case err != nil:
			return nil, err
		case !bytes.Equal(have, want):
			drift = append(drift, path+" is not what the chart says")
		}
	}
	stale, err := c.stale(files)
	if err != nil {
		return nil, err
	}
	for _, path := range stale {
		drift = append(drift, path+" is generated from nothing")
	}
	slices.Sort(drift)
	return drift, nil
}

// Write brings the tree up to date.
func (c Chart) Write(ctx context.Context) error {
	files, err := c.Generated(ctx)
	if err != nil {
		return err
	}
	stale, err := c.stale(files)
	if err != nil {
		return err
	}
	for _, path := range stale {
		if err := os.Remove(filepath.Join(c.tree, path)); err != nil {
			return err
		}
	}
	for path, data := range files {
		path = filepath.Join(c.tree, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// stale are the files in the directories of generated files that are neither generated
// nor written by hand.
func (c Chart) stale(files map[string][]byte) ([]string, error) {
	var found []string
	for _, d := range []string{base, snapshotController, identity, filepath.Join(snapshotController, "crds"), filepath.Join(dir, "files")} {
		entries, err := os.ReadDir(filepath.Join(c.tree, d))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			path := filepath.Join(d, e.Name())
			if _, ok := files[path]; !ok && !e.IsDir() && !slices.Contains(byHand, e.Name()) {
				found = append(found, path)
			}
		}
	}
	return found, nil
}
