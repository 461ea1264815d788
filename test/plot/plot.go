// Package plot draws line charts as SVG for the pages that the benchmarks write:
// series with ranges, linear and logarithmic axes, levels to aim for, and marks
// of what happened when.
//
// It promises that the same chart gives the same bytes, that a drawing needs
// neither script nor font of its own, and that it can be read on a light and on a
// dark page. It does not compute: what is drawn was measured elsewhere.
package plot

import (
	"bytes"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Chart is one drawing.
type Chart struct {
	Title  string
	X, Y   Axis
	Lines  []Line
	Levels []Level
	Marks  []Mark
}

// Axis says what a direction means. An axis fits its points; a linear one that
// measures no categories starts at 0 or below.
type Axis struct {
	Label string
	// Log makes it logarithmic: what is not positive is then not drawn.
	Log bool
	// Names are the categories 0, 1, 2, ... of an axis that measures none.
	Names []string
	// From is where a linear axis starts if not at 0, and To is where it ends at
	// least.
	From, To float64
}

// Line is a series of points, in the order in which they are joined.
type Line struct {
	Name   string
	Points []Point
	// Dots marks each point.
	Dots bool
	// Faint is for raw data behind a line that sums it up.
	Faint bool
}

// Point is a value and, if High is above Low, the range that it comes from.
type Point struct{ X, Y, Low, High float64 }

// Level is a horizontal line, for instance an aim.
type Level struct {
	Name string
	Y    float64
}

// Mark is an event: a vertical line with a name.
type Mark struct {
	Name string
	X    float64
}

// Sizes in pixels.
const (
	width, height = 760, 400
	left, right   = 76, 20
	bottom        = 54
	letter        = 6.6 // about the width of one at 12 pixels
)

// colours tell series apart on white and on black, also for the colour-blind
// (Okabe and Ito).
var colours = [...]string{"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a8f98"}

// grey is for what is not data.
const grey = "#7d8590"

// drawing is a chart on its way to SVG.
type drawing struct {
	Chart
	bytes.Buffer
	top  float64 // of the plotting area
	x, y scale
}

// SVG draws the chart.
func (c Chart) SVG() []byte {
	d := &drawing{Chart: c}
	legend := d.layLegend()
	d.top = 40 + 18*float64(legend.rows)
	if len(c.Marks) > 0 {
		d.top += 30
	}
	d.fit()
	d.put(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" font-family="sans-serif" font-size="12" fill="%s" role="img">`, width, height, width, height, grey)
	d.put(`<title>%s</title>`, escape(c.Title))
	d.put(`<text x="%d" y="20" font-size="15" font-weight="bold">%s</text>`, left, escape(c.Title))
	d.Write(legend.svg.Bytes())
	d.axes()
	for _, l := range c.Levels {
		y := d.y.at(l.Y)
		d.put(`<path d="M%d %s H%d" stroke="%s" stroke-dasharray="6 4"/>`, left, px(y), width-right, grey)
		d.put(`<text x="%d" y="%s" text-anchor="end">%s</text>`, width-right-4, px(y+14), escape(l.Name))
	}
	for i, m := range c.Marks {
		x := d.x.at(m.X)
		d.put(`<path d="M%s %s V%d" stroke="%s" stroke-dasharray="2 3"/>`, px(x), px(d.top-4), height-bottom, grey)
		// Neighbours take turns in two rows, so that their names do not meet.
		d.put(`<text x="%s" y="%s" text-anchor="middle">%s</text>`, px(x), px(d.top-22+14*float64(i%2)), escape(m.Name))
	}
	for i, l := range c.Lines {
		d.line(l, colours[i%len(colours)])
	}
	d.put(`</svg>`)
	return d.Bytes()
}

func (d *drawing) put(format string, args ...any) { fmt.Fprintf(d, format+"\n", args...) }

// line draws a series.
func (d *drawing) line(l Line, colour string) {
	var path strings.Builder
	var ranges, dots bytes.Buffer
	for _, p := range l.Points {
		if !d.x.has(p.X) || !d.y.has(p.Y) {
			continue
		}
		x, y := px(d.x.at(p.X)), px(d.y.at(p.Y))
		path.WriteString(map[bool]string{true: "M", false: " L"}[path.Len() == 0] + x + " " + y)
		if p.High > p.Low && d.y.has(p.Low) {
			fmt.Fprintf(&ranges, "M%s %s V%s ", x, px(d.y.at(p.Low)), px(d.y.at(p.High)))
		}
		if l.Dots {
			fmt.Fprintf(&dots, `<circle cx="%s" cy="%s" r="3.5" fill="%s"/>`+"\n", x, y, colour)
		}
	}
	if ranges.Len() > 0 {
		d.put(`<path d="%s" stroke="%s" stroke-opacity="0.45" stroke-width="4" fill="none"/>`, strings.TrimSpace(ranges.String()), colour)
	}
	if path.Len() > 0 {
		style := `stroke-width="2"`
		if l.Faint {
			style = `stroke-width="1" stroke-opacity="0.45"`
		}
		d.put(`<path d="%s" stroke="%s" %s fill="none" stroke-linejoin="round"/>`, path.String(), colour, style)
	}
	d.Write(dots.Bytes())
}

// legend is a row or more of names.
type legend struct {
	svg  bytes.Buffer
	rows int
}

func (d *drawing) layLegend() *legend {
	l := &legend{}
	if len(d.Lines) < 2 {
		return l
	}
	l.rows = 1
	x := float64(left)
	for i, line := range d.Lines {
		wide := 30 + letter*float64(len([]rune(line.Name)))
		if x+wide > width-right && x > left {
			x = left
			l.rows++
		}
		y := 22 + 18*float64(l.rows)
		fmt.Fprintf(&l.svg, `<path d="M%s %s h14" stroke="%s" stroke-width="3"/><text x="%s" y="%s">%s</text>`+"\n",
			px(x), px(y-4), colours[i%len(colours)], px(x+18), px(y), escape(line.Name))
		x += wide
	}
	return l
}

// escape makes text safe between tags.
func escape(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(s)
}

// px is a coordinate with a tenth of a pixel, so that a drawing does not change
// with the last bit of a float.
func px(v float64) string { return strconv.FormatFloat(math.Round(v*10)/10, 'f', -1, 64) }
