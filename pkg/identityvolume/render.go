package identityvolume

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"text/template"
	"text/template/parse"

	"github.com/holdfast-csi/holdfast/pkg/credential"
	"github.com/holdfast-csi/holdfast/pkg/payload"
	"github.com/holdfast-csi/holdfast/pkg/secret"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// functions are those that a template has beside Go's own.
func functions() template.FuncMap {
	return template.FuncMap{
		"base64": func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) },
		"json": func(s string) (string, error) {
			text, err := json.Marshal(s)
			return string(text), err
		},
		"indent": func(n int, s string) (string, error) {
			if n < 0 || n > 64 {
				return "", errors.New("indent by 0 to 64")
			}
			return strings.ReplaceAll(s, "\n", "\n"+strings.Repeat(" ", n)), nil
		},
	}
}

// parseTemplate reads a template of a pod's. What could make it run for long is
// refused: it has no loops, and calls no other template.
func parseTemplate(name, text string) (*template.Template, error) {
	t, err := template.New(name).Option("missingkey=error").Funcs(functions()).Parse(text)
	if err != nil {
		return nil, fmt.Errorf("template: %w", err)
	}
	if len(t.Templates()) > 1 {
		return nil, errors.New("template: define and block are not allowed")
	}
	if t.Tree == nil || t.Root == nil {
		return nil, errors.New("template: it makes nothing")
	}
	return t, checkNodes(t.Root)
}

func checkNodes(n parse.Node) error {
	branch := func(b parse.BranchNode) error {
		err := checkNodes(b.List)
		if err == nil && b.ElseList != nil {
			err = checkNodes(b.ElseList)
		}
		return err
	}
	switch n := n.(type) {
	case *parse.ListNode:
		for _, child := range n.Nodes {
			if err := checkNodes(child); err != nil {
				return err
			}
		}
	case *parse.IfNode:
		return branch(n.BranchNode)
	case *parse.WithNode:
		return branch(n.BranchNode)
	case *parse.TextNode, *parse.ActionNode, *parse.CommentNode:
	default:
		return fmt.Errorf("template: %s is not allowed: a template has actions, if and with", strings.Fields(n.String() + " ?")[0])
	}
	return nil
}

// render makes the files of a volume. It is volume.ErrPrecondition if a credential has
// not what a file is to be made of.
func (s spec) render(have map[string]credential.Credential, gid int) ([]payload.File, error) {
	var files []payload.File
	for _, f := range s.files {
		content, err := f.render(have)
		if err != nil {
			return nil, fmt.Errorf("%w: make file %s: %w", volume.ErrPrecondition, f.name, err)
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
		return nil, fmt.Errorf("%w: %s", volume.ErrPrecondition, err.Error())
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
	var out limitedBuilder
	if err := f.template.Execute(&out, data); err != nil {
		return secret.Text{}, errors.New(scrub(err.Error(), data))
	}
	return secret.New(out.String()), nil
}

// scrub takes the content of credentials out of what a template says of its failure.
func scrub(text string, data map[string]map[string]string) string {
	const shortest = 3
	for _, fields := range data {
		for _, value := range fields {
			if len(value) >= shortest {
				text = strings.ReplaceAll(text, value, secret.Mark)
			}
		}
	}
	return text
}

// limitedBuilder is a strings.Builder that fails beyond what a volume can hold.
type limitedBuilder struct {
	strings.Builder
}

func (b *limitedBuilder) Write(p []byte) (int, error) {
	if b.Len()+len(p) > payload.MaxBytes {
		return 0, fmt.Errorf("more than %d bytes", payload.MaxBytes)
	}
	return b.Builder.Write(p)
}
