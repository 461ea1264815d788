package chart

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

const pageHead = `# Values of the Helm chart

Made from [values.yaml](../../deploy/helm/holdfast/values.yaml) by ` + "`make manifests`" + `, with the default of each value. What is not here is refused by ` + "`values.schema.json`" + `.

`

// valueLine is the line of values.yaml on which a top-level value begins.
var valueLine = regexp.MustCompile(`^([A-Za-z][A-Za-z0-9]*):`)

// valuesPage makes a page of values.yaml: a heading for each value at its top level,
// the comment above it as text, and the rest as it is. Values that have no comment of
// their own share that of the one before them. The comment at the very top is left out.
func valuesPage(values []byte) ([]byte, error) {
	_, text, _ := strings.Cut(string(values), "\n\n")
	var page strings.Builder
	page.WriteString(pageHead)
	for block := range strings.SplitSeq(strings.TrimSpace(text), "\n\n") {
		var comment, names, lines []string
		for line := range strings.Lines(block) {
			line = strings.TrimRight(line, "\n")
			if said, ok := strings.CutPrefix(line, "#"); ok && len(lines) == 0 {
				comment = append(comment, strings.TrimPrefix(said, " "))
				continue
			}
			if m := valueLine.FindStringSubmatch(line); m != nil {
				names = append(names, "`"+m[1]+"`")
			}
			lines = append(lines, line)
		}
		if len(names) == 0 {
			return nil, fmt.Errorf("this is about no value: %q", block)
		}
		if len(comment) == 0 {
			return nil, errors.New(names[0] + " has no comment")
		}
		fmt.Fprintf(&page, "## %s\n\n", strings.Join(names, ", "))
		fmt.Fprintf(&page, "%s\n\n```yaml\n%s\n```\n\n", paragraph(comment), strings.Join(lines, "\n"))
	}
	return []byte(strings.TrimRight(page.String(), "\n") + "\n"), nil
}

// paragraph joins the lines of a comment, for a line of a page is a paragraph. A list
// has one line for each entry.
func paragraph(comment []string) string {
	var joined strings.Builder
	for i, line := range comment {
		switch {
		case i == 0:
		case line == "" || strings.HasPrefix(line, "* ") || comment[i-1] == "":
			joined.WriteByte('\n')
		default:
			joined.WriteByte(' ')
			line = strings.TrimSpace(line)
		}
		joined.WriteString(line)
	}
	return joined.String()
}
