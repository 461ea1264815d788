package main

import (
	"fmt"
	"strings"
	"time"
)

// line is a line of the terminal, and when its first character came.
type line struct {
	After time.Duration
	Spans []span
}

// span is text of one style: the names of styles that the picture has.
type span struct {
	Style, Text string
}

// styles are the sequences that programs here use (ECMA-48, SGR).
func styles() map[string]string {
	return map[string]string{"0": "", "": "", "1": "bold", "2": "dim", "31": "red", "32": "green"}
}

// lines are the lines of what was recorded, broken where a terminal of this width
// breaks them.
func (r *recording) lines() ([]line, error) {
	var all []line
	current, style, column := line{After: -1}, "", 0
	var text strings.Builder
	flush := func() {
		if text.Len() > 0 {
			current.Spans = append(current.Spans, span{style, text.String()})
			text.Reset()
		}
	}
	escape := ""
	for _, ev := range r.Events {
		for _, c := range ev.Text {
			if escape != "" {
				escape += string(c)
				if c == '[' || c >= '0' && c <= '9' || c == ';' {
					continue
				}
				code := strings.TrimSuffix(strings.TrimPrefix(escape, "\x1b["), "m")
				next, known := styles()[code]
				if c != 'm' || !known {
					return nil, fmt.Errorf("it used the sequence %q, which is no style", escape)
				}
				flush()
				style, escape = next, ""
				continue
			}
			switch c {
			case '\x1b':
				escape = string(c)
			case '\r': // the terminal writes one before each end of a line
			case '\n':
				flush()
				if current.After < 0 {
					current.After = ev.After
				}
				all, current, column = append(all, current), line{After: -1}, 0
			default:
				if column == r.Columns {
					flush()
					all, current, column = append(all, current), line{After: -1}, 0
				}
				if current.After < 0 {
					current.After = ev.After
				}
				text.WriteRune(c)
				column++
			}
		}
	}
	flush()
	if len(current.Spans) > 0 {
		all = append(all, current)
	}
	return all, nil
}
