package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"github.com/holdfast-csi/holdfast/pkg/intake"
	"github.com/holdfast-csi/holdfast/pkg/manifest"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func TestTheCommandLineOfAnImport(t *testing.T) {
	usual := intake.Request{Name: "photos", Namespace: "default", Claim: "photos", StorageClass: "holdfast", ReclaimPolicy: manifest.Retain, AccessMode: "ReadWriteOnce"}
	with := func(change func(*intake.Request)) intake.Request {
		r := usual
		change(&r)
		return r
	}
	for line, want := range map[string]intake.Request{
		"--name=photos":                         usual,
		"--name=photos --size=20Gi":             with(func(r *intake.Request) { r.Size = 20 * volume.GiB }),
		"--name=photos --claim=old":             with(func(r *intake.Request) { r.Claim = "old" }),
		"--name=photos --claim=shop/data-0":     with(func(r *intake.Request) { r.Namespace, r.Claim = "shop", "data-0" }),
		"--name=photos --mode=block":            with(func(r *intake.Request) { r.Mode = volume.ModeBlock }),
		"--name=photos --sector-size=512":       with(func(r *intake.Request) { r.SectorSize = 512 }),
		"--name=photos --fs-type=xfs":           with(func(r *intake.Request) { r.FSType = volume.XFS }),
		"--name=photos --reclaim-policy=Delete": with(func(r *intake.Request) { r.ReclaimPolicy = "Delete" }),
	} {
		got, err := parsedImport(t, line)
		if diff := cmp.Diff(want, got.request); err != nil || diff != "" {
			t.Errorf("%s: %v\n%s", line, err, diff)
		}
	}
	for line, words := range map[string]string{
		"":                                       "--name is missing",
		"--name=photos --output=xml":             "want yaml or json",
		"--name=photos --size=20Gigs":            "--size=20Gigs",
		"--name=photos --claim=/x":               "namespace",
		"--name=Not_A_Name":                      "name",
		"--name=photos --reclaim-policy=Recycle": "Recycle",
		"--name=photos --access-mode=Sometimes":  "Sometimes",
	} {
		if _, err := parsedImport(t, line); !errors.Is(err, volume.ErrInvalid) || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v, want ErrInvalid that says %q", line, err, words)
		}
	}
}

func parsedImport(t *testing.T, line string) (importOptions, error) {
	t.Helper()
	var o importOptions
	fs := pflag.NewFlagSet("import", pflag.ContinueOnError)
	o.add(fs)
	if err := fs.Parse(strings.Fields(line)); err != nil {
		t.Fatal(err)
	}
	return o, o.parse()
}

// All that is printed beside the objects is a comment, whatever the source is called.
func TestWhatAnImportPrintsCanBeApplied(t *testing.T) {
	r := intake.Result{ID: "vol.a.b", Name: "photos", Pool: "default", Size: volume.GiB, Mode: volume.ModeFilesystem, FSType: volume.Ext4, Notes: []string{"2 sockets\nwere left out"}}
	r.PersistentVolume, r.PersistentVolumeClaim = objectsOf(intake.Request{Name: "photos", Namespace: "default", Claim: "photos"}).Objects()
	var out strings.Builder
	if err := printImport(&out, "yaml", "/srv/a\nkind: Secret", r); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(out.String(), "\n")
	if lines[0] != "# /srv/a kind: Secret imported as vol.a.b: ext4, 1 GiB in pool default." || lines[1] != "# note: 2 sockets were left out" {
		t.Errorf("%q", lines[:2])
	}
	if rest := strings.Join(lines[2:], "\n"); strings.Contains(rest, "#") || !strings.Contains(rest, "kind: PersistentVolume") {
		t.Errorf("it goes on with\n%s", rest)
	}
	r.Existed, r.Mode, r.SectorSize = true, volume.ModeBlock, 512
	out.Reset()
	if err := printImport(&out, "yaml", "/srv/disk.img", r); err != nil || !strings.HasPrefix(out.String(), "# /srv/disk.img was imported before as vol.a.b: block, 512-byte sectors, ") {
		t.Errorf("%v: %s", err, out.String())
	}
}
