package tree

import (
	"fmt"
	"slices"
	"strings"
)

// noteKind is why something is noted; the text goes before the paths.
type noteKind string

const (
	noteSocket  noteKind = "sockets were left out, for they belong to a process"
	noteDevice  noteKind = "device nodes were copied, and cannot be opened in a volume, which is mounted nodev"
	noteSELinux noteKind = "SELinux labels were left out; the machine gives new ones"
	noteForeign noteKind = "extended attributes were left out that the other filesystem does not know"
	noteUntold  noteKind = "files are on a filesystem that does not tell whether something has them open for writing: make sure yourself"
	noteFlags   noteKind = "files were immutable or append-only (chattr); their copies are not"
)

// notes gathers what a person should know of a copy.
type notes struct{ of map[noteKind]*noted }

type noted struct {
	count    int
	examples []string
}

// maxExamples is how many paths a note names.
const maxExamples = 3

func (n *notes) add(kind noteKind, path string) {
	if n.of == nil {
		n.of = map[noteKind]*noted{}
	}
	if n.of[kind] == nil {
		n.of[kind] = &noted{}
	}
	of := n.of[kind]
	of.count++
	if len(of.examples) < maxExamples {
		of.examples = append(of.examples, path)
	}
}

func (n *notes) list() []string {
	var out []string
	for kind, of := range n.of {
		more := ""
		if of.count > len(of.examples) {
			more = ", ..."
		}
		out = append(out, fmt.Sprintf("%d %s: %q%s", of.count, kind, strings.Join(of.examples, ", "), more))
	}
	slices.Sort(out)
	return out
}
