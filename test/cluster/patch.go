package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// patch changes one place in one file of a module that a program is built with. The
// module is copied for it, without its tests.
type patch struct {
	module, version, file string
	// from is there once, and becomes to.
	from, to string
}

// dir is where the copy is, from the module that is built.
func (p patch) dir() string { return "./patched/" + path.Base(p.module) }

// copy makes the copy below the directory of the module that is built.
func (p patch) copy(ctx context.Context, work string) error {
	got, err := source{module: p.module, version: p.version}.download(ctx, work)
	if err != nil {
		return err
	}
	to := filepath.Join(work, p.dir())
	if err := errors.Join(os.RemoveAll(to), os.MkdirAll(to, 0o755)); err != nil {
		return err
	}
	patched := false
	err = fs.WalkDir(os.DirFS(got.Dir), ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || strings.HasSuffix(name, "_test.go") || !strings.HasSuffix(name, ".go") && name != "go.mod" {
			return err
		}
		text, err := os.ReadFile(filepath.Join(got.Dir, name))
		if err != nil {
			return err
		}
		if name == p.file {
			if text, err = p.apply(text); err != nil {
				return err
			}
			patched = true
		}
		target := filepath.Join(to, name)
		return errors.Join(os.MkdirAll(filepath.Dir(target), 0o755), os.WriteFile(target, text, 0o644))
	})
	if err == nil && !patched {
		err = fmt.Errorf("there is no file %s", p.file)
	}
	if err != nil {
		return fmt.Errorf("patch %s %s: %w", p.module, p.version, err)
	}
	return nil
}

func (p patch) apply(text []byte) ([]byte, error) {
	if n := bytes.Count(text, []byte(p.from)); n != 1 {
		return nil, fmt.Errorf("%s has %q %d times, want once", p.file, p.from, n)
	}
	return bytes.Replace(text, []byte(p.from), []byte(p.to), 1), nil
}
