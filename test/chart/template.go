package chart

import (
	"context"
	"fmt"
	"regexp"
	"strings"
)

const (
	// Namespace is where charts are rendered for, unless said otherwise.
	Namespace = "holdfast-system"
	// Kubernetes is the version that charts are rendered for, unless said otherwise:
	// that of the test cluster.
	Kubernetes = "v1.36.3"
)

// Options say how to render the chart. The zero value is what a user gets who gives
// no values.
type Options struct {
	Values     string   // a YAML document; none if empty
	Namespace  string   // [Namespace] if empty
	Kubernetes string   // the version of the cluster; [Kubernetes] if empty
	More       []string // arguments of helm template
}

// source is what helm template writes above each object.
var source = regexp.MustCompile(`(?m)^---\n# Source: [^/\n]+/(.+)\n`)

// Render renders the chart as helm template does: the objects of each template, as a
// stream of YAML documents, by the template's path in the chart. What has no objects
// with these values is not in it.
func (c Chart) Render(ctx context.Context, o Options) (map[string]string, error) {
	if o.Namespace == "" {
		o.Namespace = Namespace
	}
	if o.Kubernetes == "" {
		o.Kubernetes = Kubernetes
	}
	args := []string{"template", "holdfast", c.Dir(), "--namespace=" + o.Namespace, "--kube-version=" + o.Kubernetes, "--values=-"}
	text, err := c.Helm(ctx, o.Values, append(args, o.More...)...)
	if err != nil {
		return nil, err
	}
	starts := source.FindAllStringSubmatchIndex(text, -1)
	if len(starts) == 0 {
		return nil, fmt.Errorf("render %s: helm template wrote no object:\n%s", c.Dir(), text)
	}
	rendered := map[string]string{}
	for i, s := range starts {
		end := len(text)
		if i+1 < len(starts) {
			end = starts[i+1][0]
		}
		path, object := text[s[2]:s[3]], strings.TrimSpace(text[s[1]:end])+"\n"
		if before := rendered[path]; before != "" {
			object = before + "---\n" + object
		}
		rendered[path] = object
	}
	return rendered, nil
}

// Notes renders NOTES.txt, as for an installation on a cluster of which nothing can be
// looked up.
func (c Chart) Notes(ctx context.Context, o Options) (string, error) {
	text, err := c.Helm(ctx, o.Values, append([]string{
		"install", "holdfast", c.Dir(), "--namespace=" + Namespace, "--dry-run=client", "--values=-",
	}, o.More...)...)
	_, notes, found := strings.Cut(text, "\nNOTES:\n")
	if err == nil && !found {
		err = fmt.Errorf("render the notes of %s: helm install wrote none:\n%s", c.Dir(), text)
	}
	return notes, err
}
