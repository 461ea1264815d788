// Command licenses looks under which licences the code in the driver may be passed
// on, and writes their texts down.
//
// It asks the go command which packages are compiled into ./cmd/driver, finds the
// licence files from the directory of each up to the top of its module, and
// recognises their texts. It promises to fail if a package has no licence that it
// knows, or one that is not on the list of those that are allowed; nothing is
// taken for granted and nobody is excused. It refuses to judge what is not code of
// Go modules: the image has the licences of its Debian packages beside them.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "licenses:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("licenses", flag.ContinueOnError)
	notice := flags.String("notice", "", "a file that gets the text of every licence, for those who get the program")
	program := flags.String("program", "./cmd/driver", "the package of the program")
	if err := flags.Parse(args); err != nil {
		return err
	}
	modules, err := compiledInto(ctx, *program)
	if err != nil {
		return err
	}
	var wrong []error
	for i := range modules {
		if err := modules[i].read(); err != nil {
			wrong = append(wrong, err)
		}
	}
	if err := errors.Join(wrong...); err != nil {
		return err
	}
	for _, m := range modules {
		fmt.Fprintf(out, "%-60s %-20s %s\n", m.Path, m.Version, m.licences())
	}
	fmt.Fprintf(out, "%d modules, all under licences that are allowed: %s\n", len(modules), allowedList())
	if *notice == "" {
		return nil
	}
	return writeNotice(*notice, modules)
}
