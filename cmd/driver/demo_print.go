package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// narrator tells what the demo does: with colour on a terminal, plain when piped.
type narrator struct {
	out   io.Writer
	color bool
	steps int
}

func newNarrator(out io.Writer) *narrator {
	n := &narrator{out: out}
	if f, ok := out.(*os.File); ok && os.Getenv("NO_COLOR") == "" {
		_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
		n.color = err == nil
	}
	return n
}

const (
	bold  = "1"
	green = "32"
	red   = "31"
	dim   = "2"
)

func (n *narrator) paint(style, text string) string {
	if !n.color {
		return text
	}
	return "\x1b[" + style + "m" + text + "\x1b[0m"
}

// chapter starts a part of the story.
func (n *narrator) chapter(title string) {
	fmt.Fprintf(n.out, "\n%s\n", n.paint(bold, title))
}

// step does one thing, says how long it took, and ends the demo if it fails. fn
// may return a remark to print behind it.
func (n *narrator) step(what string, fn func() (remark string, err error)) error {
	start := time.Now()
	remark, err := fn()
	took := time.Since(start)
	if err != nil {
		fmt.Fprintf(n.out, "  %s %s\n", n.paint(red, "FAILED"), what)
		return fmt.Errorf("%s: %w", what, err)
	}
	n.steps++
	if remark != "" {
		remark = n.paint(dim, " - "+remark)
	}
	fmt.Fprintf(n.out, "  %s %9s  %s%s\n", n.paint(green, "ok"), formatTook(took), what, remark)
	return nil
}

func formatTook(d time.Duration) string {
	if d < 10*time.Millisecond {
		return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
	}
	return fmt.Sprintf("%d ms", d.Milliseconds())
}
