package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/pflag"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// poolCommands are the verbs of driver pool.
func poolCommands() []command {
	return []command{
		{"init", "make a pool of a directory, a pool image or a whole disk, and register it", runPoolInit},
		{"adopt", "register a pool that comes from another node, or whose registration was lost", runPoolAdopt},
		{"import", "make a volume of a directory or a raw image, and print the PersistentVolume to apply", runPoolImport},
		{"check", "compare records with images, look for leftovers, look through filesystems", runPoolCheck},
		{"status", "show what the pools hold and where their space is", runPoolStatus},
	}
}

func runPool(ctx context.Context, args []string, out io.Writer) error {
	if len(args) > 0 {
		for _, c := range poolCommands() {
			if c.name == args[0] {
				return c.run(ctx, args[1:], out)
			}
		}
	}
	fmt.Fprintln(out, "Usage: driver pool COMMAND [FLAGS] [ARGUMENTS]")
	fmt.Fprintln(out)
	for _, c := range poolCommands() {
		fmt.Fprintf(out, "  %-7s %s\n", c.name, c.summary)
	}
	fmt.Fprintln(out)
	fmt.Fprintln(out, "driver pool COMMAND --help shows the flags of a command.")
	switch {
	case len(args) == 0:
		return fmt.Errorf("%w: say which pool command", volume.ErrInvalid)
	case args[0] == "-h" || args[0] == "--help":
		return pflag.ErrHelp
	}
	return fmt.Errorf("%w: there is no pool command %q", volume.ErrInvalid, args[0])
}

// format is how a command prints what it found.
type format string

const (
	formatText format = "text"
	formatJSON format = "json"
)

// addFormat adds the flag --output.
func addFormat(fs *pflag.FlagSet) *format {
	f := new(format)
	fs.StringVar((*string)(f), "output", string(formatText), "how to print: text, for people, or json")
	return f
}

func (f format) check() error {
	if f != formatText && f != formatJSON {
		return fmt.Errorf("%w: --output=%s: want text or json", volume.ErrInvalid, f)
	}
	return nil
}

// print prints what a command found: as JSON, or as text puts it.
func (f format) print(out io.Writer, found any, text func(io.Writer) error) error {
	// In one piece: what is said of an error on another stream must not land inside it.
	var page bytes.Buffer
	if f != formatJSON {
		if err := text(&page); err != nil {
			return err
		}
	} else {
		enc := json.NewEncoder(&page)
		enc.SetIndent("", "  ")
		if err := enc.Encode(found); err != nil {
			return fmt.Errorf("print: %w", err)
		}
	}
	if _, err := out.Write(page.Bytes()); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}
