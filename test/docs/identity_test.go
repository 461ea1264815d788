package docs

import (
	"context"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-csi/holdfast/pkg/credential"
	"github.com/holdfast-csi/holdfast/pkg/identityvolume"
)

// descriptions of a collector, as name and labels, from the text that Prometheus'
// library gives them.
func described(t *testing.T, c prometheus.Collector) map[string]string {
	t.Helper()
	descs := make(chan *prometheus.Desc, 100)
	c.Describe(descs)
	close(descs)
	out := map[string]string{}
	for d := range descs {
		text := d.String()
		name := between(text, `fqName: "`, `"`)
		out[name] = sorted(strings.Split(strings.ReplaceAll(between(text, "variableLabels: {", "}"), ",", ", "), ", "))
	}
	return out
}

func between(text, start, end string) string {
	_, text, _ = strings.Cut(text, start)
	text, _, _ = strings.Cut(text, end)
	return text
}

func TestMetricsOfIdentityVolumesAreDocumented(t *testing.T) {
	sources, err := credential.Parse([]byte("sources: {a: {token: {audience: a}}}"))
	if err != nil {
		t.Fatal(err)
	}
	server := identityvolume.New(identityvolume.Config{Sources: sources})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	server.Run(ctx)
	want, got := described(t, identityvolume.NewCollector(server)), map[string]string{}
	for _, row := range rows(t, section(t, readFile(t, "docs/reference/metrics.md"), "## Identity volumes")) {
		got[row[0]] = sorted(strings.Split(row[2], ", "))
		kind := "gauge"
		if strings.HasSuffix(row[0], "_total") {
			kind = "counter"
		}
		if row[1] != kind {
			t.Errorf("%s is documented as a %s", row[0], row[1])
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("metrics.md differs from the code (-code +document):\n%s", diff)
	}
}

// TestFieldsOfTheSourcesFileAreDocumented compares the tables of identity.md with the
// fields that the file may have.
func TestFieldsOfTheSourcesFileAreDocumented(t *testing.T) {
	document := readFile(t, "docs/reference/identity.md")
	for heading, kind := range map[string]any{
		"### vault": credential.VaultConfig{}, "### oidc": credential.OIDCConfig{}, "### gcp": credential.GCPConfig{},
		"### aws": credential.AWSConfig{}, "### token": credential.TokenConfig{},
	} {
		var got []string
		for _, row := range rows(t, section(t, document, heading)) {
			got = append(got, row[0])
			if row[1] == "" {
				t.Errorf("%s: %s has no meaning", heading, row[0])
			}
		}
		if diff := cmp.Diff(sorted(fieldsOf(reflect.TypeOf(kind), "")), sorted(got)); diff != "" {
			t.Errorf("%s: identity.md differs from the code (-code +document):\n%s", heading, diff)
		}
	}
	var got []string
	for _, row := range rows(t, section(t, document, "## What a pod writes")) {
		got = append(got, row[0])
	}
	want := []string{
		identityvolume.AttributeSource, identityvolume.AttributeRole, identityvolume.AttributeCredentials, identityvolume.AttributeFiles, identityvolume.AttributeOnExpiry,
	}
	if diff := cmp.Diff(sorted(want), sorted(got)); diff != "" {
		t.Errorf("attributes: identity.md differs from the code (-code +document):\n%s", diff)
	}
}

// fieldsOf are the names of a type's fields in YAML, those of a struct in it with its
// name before them.
func fieldsOf(t reflect.Type, prefix string) []string {
	var names []string
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous:
			names = append(names, fieldsOf(f.Type, prefix)...)
		case f.Type.Kind() == reflect.Struct:
			names = append(names, fieldsOf(f.Type, prefix+name+".")...)
		default:
			names = append(names, prefix+name)
		}
	}
	return names
}
