package main

import (
	"fmt"
	"html"
	"strings"
	"time"
	"unicode/utf8"
)

// Sizes of the picture, in its own units.
const (
	lineHeight = 18
	charWidth  = 7.83 // of a monospaced font of 13 units
	margin     = 16
	titleBar   = 34
)

// style is how the picture looks on a light page and, if the reader's system is
// dark, on a dark one. Its background is its own, so it can be read on any page.
const style = `
    .page { fill: #ffffff; stroke: #d0d7de; } .bar { fill: #f6f8fa; } .name { fill: #57606a; font: 12px sans-serif; text-anchor: middle; }
    .line { fill: #24292f; font: 13px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; white-space: pre; }
    .bold { font-weight: bold; } .dim { fill: #6e7781; } .green { fill: #1a7f37; } .red { fill: #cf222e; }
    .line { animation: appear 1ms linear backwards; }
    @keyframes appear { from { opacity: 0; } to { opacity: 1; } }
    @media (prefers-reduced-motion: reduce) { .line { animation: none; } }
    @media (prefers-color-scheme: dark) {
      .page { fill: #0d1117; stroke: #30363d; } .bar { fill: #161b22; } .name { fill: #8b949e; }
      .line { fill: #e6edf3; } .dim { fill: #8b949e; } .green { fill: #3fb950; } .red { fill: #f85149; }
    }
`

// longestPause is how long the picture stands still at most. The cast has the real
// times.
const longestPause = 800 * time.Millisecond

// draw is a picture of a terminal in which the lines appear one after another as
// they came. Where nothing can move it shows all of them.
func draw(title string, lines []line) []byte {
	longest := utf8.RuneCountInString(title)
	for _, l := range lines {
		n := 0
		for _, s := range l.Spans {
			n += utf8.RuneCountInString(s.Text)
		}
		longest = max(longest, n)
	}
	width := int(float64(longest)*charWidth) + 2*margin
	height := titleBar + len(lines)*lineHeight + 2*margin
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%[1]d" height="%[2]d" role="img" aria-label="%s">`+"\n", width, height, html.EscapeString(title))
	fmt.Fprintf(&b, "  <title>%s</title>\n  <style>%s  </style>\n", html.EscapeString(title), style)
	fmt.Fprintf(&b, `  <rect class="page" x="0.5" y="0.5" width="%d" height="%d" rx="8"/>`+"\n", width-1, height-1)
	fmt.Fprintf(&b, `  <path class="bar" d="M1 %d V9 a8 8 0 0 1 8 -8 H%d a8 8 0 0 1 8 8 V%[1]d Z"/>`+"\n", titleBar, width-9)
	fmt.Fprintf(&b, `  <text class="name" x="%d" y="22">%s</text>`+"\n", width/2, html.EscapeString(title))
	var last, shown time.Duration
	for i, l := range lines {
		shown, last = shown+min(l.After-last, longestPause), l.After
		if len(l.Spans) == 0 {
			continue
		}
		fmt.Fprintf(&b, `  <text class="line" x="%d" y="%d" style="animation-delay:%dms" xml:space="preserve">`, margin, titleBar+margin+(i+1)*lineHeight-5, shown.Milliseconds())
		for _, s := range l.Spans {
			if s.Style == "" {
				b.WriteString(html.EscapeString(s.Text))
				continue
			}
			fmt.Fprintf(&b, `<tspan class="%s">%s</tspan>`, s.Style, html.EscapeString(s.Text))
		}
		b.WriteString("</text>\n")
	}
	b.WriteString("</svg>\n")
	return []byte(b.String())
}
