package identityvolume

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/template"
	"text/template/parse"

	"github.com/holdfast-csi/holdfast/pkg/credential"
	"github.com/holdfast-csi/holdfast/pkg/payload"
	"github.com/holdfast-csi/holdfast/pkg/secret"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// maxTemplate bounds the text of a template, in bytes.
const maxTemplate = 16 << 10

var errTooMuch = fmt.Errorf("more than %d bytes", payload.MaxBytes)

// functions are those that a template has beside Go's own. None makes more than what a
// volume can hold: the limit on what a template writes does not see what it makes and
// throws away.
func functions() template.FuncMap {
	return template.FuncMap{
		"base64": func(s string) (string, error) {
			if base64.StdEncoding.EncodedLen(len(s)) > payload.MaxBytes {
				return "", errTooMuch
			}
			return base64.StdEncoding.EncodeToString([]byte(s)), nil
		},
		"json": func(s string) (string, error) {
			if len(s) > payload.MaxBytes {
				return "", errTooMuch
			}
			text, err := json.Marshal(s)
			if len(text) > payload.MaxBytes {
				return "", errTooMuch
			}
			return string(text), err
		},
		"indent": func(n int, s string) (string, error) {
			if n < 0 || n > 64 {
				return "", errors.New("indent by 0 to 64")
			}
			if len(s)+n*strings.Count(s, "\n") > payload.MaxBytes {
				return "", errTooMuch
			}
			return strings.ReplaceAll(s, "\n", "\n"+strings.Repeat(" ", n)), nil
		},
	}
}

// allowed are the functions that a template may call. Those of Go's own that make a
// text of texts are not among them: a few lines of them fill any memory.
func allowed() []string {
	return append(slices.Collect(maps.Keys(functions())),
		"and", "or", "not", "eq", "ne", "lt", "le", "gt", "ge", "index", "slice", "len")
}

// parseTemplate reads a template of a pod's. What could make it run for long, or fill
// the memory, is refused: it has no loops and no variables, and calls no other
// template.
func parseTemplate(name, text string) (*template.Template, error) {
	if len(text) > maxTemplate {
		return nil, fmt.Errorf("template: %d bytes are more than the limit of %d", len(text), maxTemplate)
	}
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
		err := errors.Join(checkPipe(b.Pipe), checkNodes(b.List))
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
	case *parse.ActionNode:
		return checkPipe(n.Pipe)
	case *parse.TextNode, *parse.CommentNode:
	default:
		return fmt.Errorf("template: %s is not allowed: a template has actions, if and with", strings.Fields(n.String() + " ?")[0])
	}
	return nil
}

func checkPipe(p *parse.PipeNode) error {
	if len(p.Decl) > 0 {
		return fmt.Errorf("template: variable %s is not allowed: a template has none", p.Decl[0])
	}
	for _, command := range p.Cmds {
		for _, arg := range command.Args {
			if err := checkArg(arg); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkArg(n parse.Node) error {
	switch n := n.(type) {
	case *parse.PipeNode:
		return checkPipe(n)
	case *parse.ChainNode:
		return checkArg(n.Node)
	case *parse.IdentifierNode:
		if may := allowed(); !slices.Contains(may, n.Ident) {
			slices.Sort(may)
			return fmt.Errorf("template: function %s is not allowed: a template may call %s", n.Ident, strings.Join(may, ", "))
		}
	}
	return nil
}

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
		return 0, errTooMuch
	}
	return b.Builder.Write(p)
}
