// Command record runs a program on a terminal of its own and writes down what it
// says and when: as an asciicast (version 2, docs.asciinema.org/manual/asciicast),
// which players show, and as a picture for documents.
//
// What is recorded is what the program wrote; nothing is added, left out or typed by
// hand. It promises to write nothing if the program fails. It refuses output that
// moves the cursor: it records programs that print lines.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "record:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("record", flag.ContinueOnError)
	cast := flags.String("cast", "", "the asciicast to write")
	picture := flags.String("svg", "", "the picture to write")
	title := flags.String("title", "", "what both are called")
	columns := flags.Int("columns", 112, "the width of the terminal, in characters")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() == 0 || *cast == "" || *picture == "" {
		return fmt.Errorf("a program, -cast and -svg must be named: record -cast FILE -svg FILE [-title TEXT] PROGRAM [ARGUMENT]")
	}
	r := recording{Title: *title, Columns: *columns, Rows: 50}
	if err := r.record(ctx, os.Stdout, flags.Args()); err != nil {
		return fmt.Errorf("record %s: %w", flags.Arg(0), err)
	}
	lines, err := r.lines()
	if err != nil {
		return fmt.Errorf("draw what %s wrote: %w", flags.Arg(0), err)
	}
	text, err := r.asciicast()
	if err != nil {
		return err
	}
	if err := os.WriteFile(*cast, text, 0o644); err != nil {
		return err
	}
	return os.WriteFile(*picture, draw(*title, lines), 0o644)
}
