package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/intake"
	"github.com/holdfast-csi/holdfast/pkg/manifest"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// importOptions is the command line of pool import.
type importOptions struct {
	request  intake.Request
	claim    string
	size     string
	stateDir string
	output   string
}

func (o *importOptions) add(fs *pflag.FlagSet) {
	r := &o.request
	fs.StringVar(&r.Name, "name", "", "the name of the volume and of its PersistentVolume; the same name means the same import")
	fs.StringVar(&r.Pool, "pool", "", "the pool to import into; without it the only one, or the one named default")
	fs.StringVar(&o.size, "size", "", "the size of the volume, such as 20Gi; without it the smallest that is sensible")
	fs.StringVar((*string)(&r.Mode), "mode", "", "filesystem or block; without it a directory becomes a filesystem, an image a block volume")
	fs.StringVar((*string)(&r.FSType), "fs-type", "", "ext4 or xfs: what a directory is copied into, ext4 unless said otherwise; an image has its own")
	fs.IntVar(&r.SectorSize, "sector-size", 0, "512 or 4096, for a block volume; without it what the image was made for, else 4096")
	fs.StringVar(&o.claim, "claim", "", "the claim that gets the volume, as [NAMESPACE/]NAME; without it default and the name of the volume")
	fs.StringVar(&r.StorageClass, "storage-class", "holdfast", "the StorageClass of volume and claim; it says whether the claim can grow")
	fs.StringVar(&r.ReclaimPolicy, "reclaim-policy", manifest.Retain, "what happens to the volume when the claim is deleted: Retain or Delete")
	fs.StringVar(&r.AccessMode, "access-mode", "ReadWriteOnce", "ReadWriteOnce, ReadWriteOncePod or ReadOnlyMany")
	fs.StringVar(&o.stateDir, "state-dir", defaultStateDir, "the --state-dir of the driver that runs")
	fs.StringVar(&o.output, "output", "yaml", "how to print: yaml, for kubectl apply, or json with all that is known of the import")
}

// parse completes the request.
func (o *importOptions) parse() error {
	r := &o.request
	if o.output != "yaml" && o.output != "json" {
		return fmt.Errorf("%w: --output=%s: want yaml or json", volume.ErrInvalid, o.output)
	}
	if r.Name == "" {
		return fmt.Errorf("%w: --name is missing: say what the volume is to be called", volume.ErrInvalid)
	}
	if o.size != "" {
		size, err := volume.ParseBytes(o.size)
		if err != nil {
			return fmt.Errorf("--size=%s: %w", o.size, err)
		}
		r.Size = size
	}
	r.Namespace, r.Claim = "default", r.Name
	if namespace, name, ok := strings.Cut(o.claim, "/"); ok {
		r.Namespace, r.Claim = namespace, name
	} else if o.claim != "" {
		r.Claim = o.claim
	}
	return objectsOf(*r).Check()
}

// objectsOf is what a request says of the objects.
func objectsOf(r intake.Request) manifest.Spec {
	return manifest.Spec{
		Name: r.Name, Namespace: r.Namespace, Claim: r.Claim, StorageClass: r.StorageClass,
		ReclaimPolicy: r.ReclaimPolicy, AccessMode: r.AccessMode,
	}
}

// runPoolImport asks the driver that runs to make a volume of a directory or a raw
// image, and prints the objects to apply.
func runPoolImport(ctx context.Context, args []string, out io.Writer) error {
	fs := pflag.NewFlagSet("driver pool import --name=NAME DIR|IMAGE", pflag.ContinueOnError)
	var o importOptions
	o.add(fs)
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() != 1 {
		return fmt.Errorf("%w: %d arguments: name one directory, or one raw image", volume.ErrInvalid, fs.NArg())
	}
	if err := o.parse(); err != nil {
		return err
	}
	source, err := openSource(fs.Arg(0))
	if err != nil {
		return err
	}
	defer source.Close()
	// Comments, for the log of a pod has both outputs in one.
	fmt.Fprintf(os.Stderr, "# looking through %s\n", comment(fs.Arg(0)))
	result, err := intake.Ask(ctx, o.stateDir, o.request, source, func(p intake.Progress) {
		fmt.Fprintf(os.Stderr, "# %s of %s copied and read back\n", p.Done/2, p.Total/2)
	})
	if err != nil {
		return err
	}
	return printImport(out, o.output, fs.Arg(0), result)
}

// openSource opens what is to be imported. What the name leads to is opened, also
// through a symbolic link; a device or a pipe is not even waited for.
func openSource(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open the source: %w", err)
	}
	return f, nil
}

// printImport prints the objects, with what a person should know as comments, so
// that the output as a whole can be applied.
func printImport(out io.Writer, output, source string, r intake.Result) error {
	if output == "json" {
		return formatJSON.print(out, r, nil)
	}
	text, err := manifest.YAML(r.PersistentVolume, r.PersistentVolumeClaim)
	if err != nil {
		return err
	}
	did := "imported"
	if r.Existed {
		did = "was imported before"
	}
	kind := string(r.FSType)
	if r.Mode == volume.ModeBlock {
		kind = fmt.Sprintf("block, %d-byte sectors", r.SectorSize)
	}
	fmt.Fprintf(out, "# %s %s as %s: %s, %s in pool %s.\n", comment(source), did, r.ID, kind, r.Size, r.Pool)
	for _, n := range r.Notes {
		fmt.Fprintf(out, "# note: %s\n", comment(n))
	}
	_, err = io.WriteString(out, text)
	return err
}

// comment keeps a text on one line of comment.
func comment(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' {
			return ' '
		}
		return r
	}, text)
}
