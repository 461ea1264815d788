package identityvolume

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"text/template"
	"text/template/parse"

	"github.com/holdfast-csi/holdfast/pkg/payload"
	"github.com/holdfast-csi/holdfast/pkg/secret"
)

// maxTemplate bounds the text of a template, in bytes.
const maxTemplate = 16 << 10

// plain is an error whose text is of this package alone, so that it may be shown.
type plain string

func (p plain) Error() string { return string(p) }

var errTooMuch = plain(fmt.Sprintf("it makes more than %d bytes", payload.MaxBytes))

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
				return "", plain("indent by 0 to 64")
			}
			if len(s)+n*strings.Count(s, "\n") > payload.MaxBytes {
				return "", errTooMuch
			}
			return strings.ReplaceAll(s, "\n", "\n"+strings.Repeat(" ", n)), nil
		},
		"index": index,
	}
}

// index is what a credential, or one of all credentials, has by a name. Go's own makes
// an empty text of what is not there.
func index(of any, names ...string) (any, error) {
	for _, name := range names {
		ok := false
		switch from := of.(type) {
		case map[string]map[string]string:
			of, ok = from[name]
		case map[string]string:
			of, ok = from[name]
		default:
			return nil, plain("index looks for the name of a credential or of its field")
		}
		if !ok {
			return nil, plain("there is no credential or field of the name that index looks for")
		}
	}
	return of, nil
}

// allowed are the functions that a template may call. Those of Go's own that make a
// text of texts are not among them: a few lines of them fill any memory.
func allowed() []string {
	return append(slices.Collect(maps.Keys(functions())),
		"and", "or", "not", "eq", "ne", "lt", "le", "gt", "ge", "slice", "len")
}

// parseTemplate reads a template of a pod's. What could make it run for long, or fill
// the memory, is refused: it has no loops and no variables, and calls no other
// template.
func parseTemplate(name, text string) (*fileTemplate, error) {
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
	return &fileTemplate{t}, checkNodes(t.Root)
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

// fileTemplate is a template of a pod's that was found harmless.
type fileTemplate struct{ parsed *template.Template }

// execute makes the content of a file. Its error shows nothing of the data: Go's says
// what it could not compare or call, with the value.
func (t *fileTemplate) execute(data map[string]map[string]string) (secret.Text, error) {
	var out limitedBuilder
	if err := t.parsed.Execute(&out, data); err != nil {
		return secret.Text{}, fmt.Errorf("template%s", t.explain(err))
	}
	return secret.New(out.String()), nil
}

// position is where Go says that a template failed. The name of a file has no colon.
var position = regexp.MustCompile(`^template: [^:]*:(\d+):(\d+): `)

// explain says of a failure where it was, what of the template stands there, and what
// this package knows of the cause. All of that is the pod's own text or ours.
func (t *fileTemplate) explain(err error) string {
	cause := "it cannot be done with what the credentials have"
	var known plain
	if errors.As(err, &known) {
		cause = known.Error()
	}
	at := position.FindStringSubmatch(err.Error())
	if at == nil {
		return ": " + cause
	}
	where := fmt.Sprintf(": line %s, column %s", at[1], at[2])
	what := t.standsAt(at[1] + ":" + at[2])
	switch {
	case what == "":
		return where + ": " + cause
	case known == "" && strings.HasPrefix(what, "."):
		return fmt.Sprintf("%s: %s: it is not there, or not what is wanted here", where, what)
	}
	return fmt.Sprintf("%s: %s: %s", where, what, cause)
}

// standsAt is the field, with a dot before it, or the function that a template names at
// LINE:COLUMN; "" for anything else.
func (t *fileTemplate) standsAt(where string) string {
	found := ""
	var look func(n parse.Node)
	pipe := func(p *parse.PipeNode) {
		if p == nil {
			return
		}
		for _, command := range p.Cmds {
			for _, arg := range command.Args {
				look(arg)
			}
		}
	}
	branch := func(b parse.BranchNode) {
		pipe(b.Pipe)
		look(b.List)
		if b.ElseList != nil {
			look(b.ElseList)
		}
	}
	name := func(n parse.Node, text string) {
		// As Go makes the text of an error.
		if location, _ := t.parsed.ErrorContext(n); strings.HasSuffix(location, ":"+where) {
			found = text
		}
	}
	look = func(n parse.Node) {
		switch n := n.(type) {
		case *parse.ListNode:
			for _, child := range n.Nodes {
				look(child)
			}
		case *parse.IfNode:
			branch(n.BranchNode)
		case *parse.WithNode:
			branch(n.BranchNode)
		case *parse.ActionNode:
			pipe(n.Pipe)
		case *parse.PipeNode:
			pipe(n)
		case *parse.ChainNode:
			look(n.Node)
			name(n, "."+strings.Join(n.Field, "."))
		case *parse.FieldNode:
			name(n, "."+strings.Join(n.Ident, "."))
		case *parse.VariableNode:
			name(n, "."+strings.Join(n.Ident[1:], "."))
		case *parse.IdentifierNode:
			name(n, n.Ident)
		}
	}
	look(t.parsed.Root)
	return found
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
