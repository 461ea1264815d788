package docs

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"

	"github.com/holdfast-csi/holdfast/pkg/controller"
	"github.com/holdfast-csi/holdfast/pkg/filesystem"
	"github.com/holdfast-csi/holdfast/pkg/rpc"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func TestParametersAreDocumented(t *testing.T) {
	document := readFile(t, "docs/reference/parameters.md")
	for heading, parameters := range map[string][]controller.Parameter{
		"## StorageClass":        controller.VolumeParameters(),
		"## VolumeSnapshotClass": controller.SnapshotParameters(),
	} {
		var want [][]string
		for _, p := range parameters {
			want = append(want, []string{p.Name, p.Values, p.Default, p.Meaning})
		}
		if diff := cmp.Diff(want, rows(t, section(t, document, heading))); diff != "" {
			t.Errorf("%s: parameters.md differs from the code (-code +document):\n%s", heading, diff)
		}
	}
}

func TestSizesAreDocumented(t *testing.T) {
	text := section(t, readFile(t, "docs/reference/parameters.md"), "## Sizes")
	want := map[string]string{
		"ext4":      volume.Format{Mode: volume.ModeFilesystem, FSType: volume.Ext4}.MinSize().String(),
		"xfs":       volume.Format{Mode: volume.ModeFilesystem, FSType: volume.XFS}.MinSize().String(),
		"raw block": volume.Format{Mode: volume.ModeBlock}.MinSize().String(),
	}
	got := map[string]string{}
	for _, row := range rows(t, text) {
		got[row[0]] = row[1]
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("parameters.md differs from the code (-code +document):\n%s", diff)
	}
	for _, size := range []volume.Bytes{volume.MaxSize, volume.Alignment, volume.DefaultSize} {
		if !strings.Contains(text, size.String()) {
			t.Errorf("parameters.md does not say %s", size)
		}
	}
}

// allowedOptions are the mount options that an error message offers.
func allowedOptions(t *testing.T, fsType volume.FSType) []string {
	t.Helper()
	_, err := filesystem.ParseMountFlags(fsType, []string{"no-such-option"})
	if err == nil {
		t.Fatal("an unknown option was accepted")
	}
	_, list, ok := strings.Cut(err.Error(), "allowed are ")
	if !ok {
		t.Fatalf("the error does not say what is allowed: %v", err)
	}
	return strings.Split(list, ", ")
}

func TestMountOptionsAreDocumented(t *testing.T) {
	documented := map[string][]string{}
	for _, row := range rows(t, section(t, readFile(t, "docs/reference/parameters.md"), "## Mount options")) {
		documented[row[0]] = strings.Fields(row[1])
	}
	for _, fsType := range []volume.FSType{volume.Ext4, volume.XFS} {
		got := slices.Concat(documented["ext4 and xfs"], documented[string(fsType)])
		slices.Sort(got)
		if diff := cmp.Diff(allowedOptions(t, fsType), got); diff != "" {
			t.Errorf("%s: parameters.md differs from the code (-code +document):\n%s", fsType, diff)
		}
	}
}

// sentinels are the errors of pkg/volume by name.
func sentinels() map[string]error {
	return map[string]error{
		"ErrInvalid": volume.ErrInvalid, "ErrNotFound": volume.ErrNotFound, "ErrExists": volume.ErrExists,
		"ErrInUse": volume.ErrInUse, "ErrPrecondition": volume.ErrPrecondition, "ErrNoSpace": volume.ErrNoSpace,
		"ErrOutOfRange": volume.ErrOutOfRange, "ErrUnavailable": volume.ErrUnavailable, "ErrBusy": volume.ErrBusy,
		"ErrUnauthenticated": volume.ErrUnauthenticated, "ErrDenied": volume.ErrDenied,
		"ErrBadToken": volume.ErrBadToken, "ErrDataLoss": volume.ErrDataLoss,
	}
}

// declaredSentinels are the names that pkg/volume declares.
func declaredSentinels(t *testing.T) []string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(repository, "pkg/volume/errors.go"), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	ast.Inspect(file, func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok {
			names = append(names, spec.Names[0].Name)
		}
		return true
	})
	return names
}

func TestErrorCodesAreDocumented(t *testing.T) {
	want := map[string]string{}
	for _, name := range declaredSentinels(t) {
		err, ok := sentinels()[name]
		if !ok {
			t.Errorf("this test does not know volume.%s", name)
			continue
		}
		want[name] = specName(rpc.Code(errors.Join(err)))
	}
	got := map[string]string{}
	for _, row := range rows(t, readFile(t, "docs/reference/errors.md")) {
		got[row[0]] = row[1]
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("errors.md differs from pkg/rpc (-code +document):\n%s", diff)
	}
}

// specName is a code as the gRPC and CSI specifications write it.
func specName(c codes.Code) string {
	var name strings.Builder
	for i, r := range c.String() {
		if i > 0 && r >= 'A' && r <= 'Z' {
			name.WriteByte('_')
		}
		name.WriteString(strings.ToUpper(string(r)))
	}
	return name.String()
}
