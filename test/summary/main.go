// Command summary turns the output of go test -json into something to read, and
// ends with one line that counts: "N passed, N failed, N skipped".
//
// It reads its standard input, which may be the output of several runs of go
// test one after another (unit tests, race detector, tests that need root). A
// test that runs in several of them counts once: it failed if it failed in any,
// and is skipped only if it ran in none. A test with subtests is its subtests
// and counts only if it fails by itself. A package that does not build, or fails
// outside its tests, counts as one failure.
//
// Between the runs a script may write lines of its own:
//
//	summary: pass NAME             what follows is this run
//	summary: skip WHAT: REASON     this cannot run here; it counts as skipped
//	summary: exit STATUS           how the go command ended
//	summary: again PACKAGE TEST    what follows stands over this test's failure
//
// With -again it reads the output of one run and names the tests that a script may
// run again, "PACKAGE TEST" a line.
//
// The exit status is 1 if anything failed, or if nothing ran.
package main

import (
	"flag"
	"fmt"
	"os"
)

func main() {
	out := flag.String("out", "", "a file that gets the last line, too, and before it which tests passed only when run again")
	named := flag.Bool("again", false, "only name the tests that may be run again")
	flag.Parse()
	if *named {
		failures, err := again(os.Stdin)
		if err != nil {
			fmt.Fprintln(os.Stderr, "summary:", err)
			os.Exit(1)
		}
		for _, k := range failures {
			fmt.Println(k.Package, k.Test)
		}
		return
	}
	r := newReport(os.Stdout)
	if err := r.read(os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, "summary:", err)
		os.Exit(1)
	}
	ok := r.finish()
	if *out != "" {
		if err := os.WriteFile(*out, []byte(r.tellAgain()+r.line()+"\n"), 0o644); err != nil {
			fmt.Fprintln(os.Stderr, "summary:", err)
			os.Exit(1)
		}
	}
	if !ok {
		os.Exit(1)
	}
}
