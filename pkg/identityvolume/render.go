package identityvolume

import (
	"errors"
	"fmt"

	"github.com/holdfast-csi/holdfast/pkg/credential"
	"github.com/holdfast-csi/holdfast/pkg/payload"
	"github.com/holdfast-csi/holdfast/pkg/secret"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// errOwn marks what fails here although the service gave what it was asked for: that
// takes nothing away from a pod.
var errOwn = errors.New("what came does not fit the files")

// render makes the files of a volume. It is volume.ErrPrecondition, and errOwn, if a
// credential has not what a file is to be made of.
func (s spec) render(have map[string]credential.Credential, gid int) ([]payload.File, error) {
	var files []payload.File
	for _, f := range s.files {
		content, err := f.render(have)
		if err != nil {
			return nil, fmt.Errorf("%w: %w: make file %s: %w", volume.ErrPrecondition, errOwn, f.name, err)
		}
		out := payload.File{Name: f.name, Mode: f.mode, Content: content}
		if out.Mode == 0 {
			out.Mode = 0o400
			if gid != 0 {
				out.Mode = 0o440
			}
		}
		files = append(files, out)
	}
	if err := payload.Check(files); err != nil {
		return nil, fmt.Errorf("%w: %w: %s", volume.ErrPrecondition, errOwn, err.Error())
	}
	return files, nil
}

func (f fileSpec) render(have map[string]credential.Credential) (secret.Text, error) {
	if f.template == nil {
		content, ok := have[f.credential].Fields[f.field]
		if !ok {
			return secret.Text{}, fmt.Errorf("credential %s has no field %q", f.credential, f.field)
		}
		return content, nil
	}
	data := map[string]map[string]string{}
	for name, c := range have {
		data[name] = map[string]string{}
		for field, text := range c.Fields {
			data[name][field] = text.Reveal()
		}
	}
	return f.template.execute(data)
}
