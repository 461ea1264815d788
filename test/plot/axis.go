package plot

import (
	"math"
	"strconv"
)

// scale maps values of an axis to pixels.
type scale struct {
	log       bool
	low, high float64
	from, to  float64 // pixels
}

// has reports whether a value can be drawn.
func (s scale) has(v float64) bool {
	return !math.IsNaN(v) && !math.IsInf(v, 0) && (!s.log || v > 0)
}

func (s scale) at(v float64) float64 {
	part := (v - s.low) / (s.high - s.low)
	if s.log {
		part = (math.Log10(v) - math.Log10(s.low)) / (math.Log10(s.high) - math.Log10(s.low))
	}
	return s.from + part*(s.to-s.from)
}

// fit makes both scales from what is to be drawn.
func (d *drawing) fit() {
	var xs, ys []float64
	for _, l := range d.Lines {
		for _, p := range l.Points {
			xs = append(xs, p.X)
			ys = append(ys, p.Y)
			if p.High > p.Low {
				ys = append(ys, p.Low, p.High)
			}
		}
	}
	for _, l := range d.Levels {
		ys = append(ys, l.Y)
	}
	for _, m := range d.Marks {
		xs = append(xs, m.X)
	}
	d.x, d.y = d.X.scale(xs), d.Y.scale(ys)
	d.x.from, d.x.to = left, width-right
	d.y.from, d.y.to = height-bottom, d.top
}

func (a Axis) scale(values []float64) scale {
	s := scale{log: a.Log, low: math.Inf(1), high: math.Inf(-1)}
	for _, v := range values {
		if s.has(v) {
			s.low, s.high = min(s.low, v), max(s.high, v)
		}
	}
	switch {
	case len(a.Names) > 0:
		s.low, s.high = -0.5, float64(len(a.Names))-0.5
	case a.Log && s.low > s.high: // nothing to draw
		s.low, s.high = 1, 10
	case a.Log:
		s.low, s.high = roundDown(s.low), roundUp(s.high)
		if s.low == s.high {
			s.high *= 10
		}
	default:
		s.low, s.high = min(a.From, s.low), max(a.To, s.high)
		if s.high <= s.low {
			s.high = s.low + 1
		}
		if step := niceStep(s.high - s.low); a.To == 0 {
			s.high = math.Ceil(s.high/step) * step
		}
	}
	return s
}

// tick is a labelled place on an axis.
type tick struct {
	at   float64
	name string
}

func (a Axis) ticks(s scale) []tick {
	var out []tick
	switch {
	case len(a.Names) > 0:
		for i, n := range a.Names {
			out = append(out, tick{float64(i), n})
		}
	case a.Log:
		steps := []float64{1}
		if s.high/s.low < 100 {
			steps = []float64{1, 2, 5}
		}
		for power := math.Pow(10, math.Floor(math.Log10(s.low))); power <= s.high; power *= 10 {
			for _, n := range steps {
				if v := n * power; v >= s.low*0.999 && v <= s.high*1.001 {
					out = append(out, tick{v, quantity(v)})
				}
			}
		}
	default:
		step := niceStep(s.high - s.low)
		for i := math.Ceil(s.low / step); i*step <= s.high+step/1000; i++ {
			out = append(out, tick{i * step, quantity(i * step)})
		}
	}
	return out
}

// roundDown is the next of 1, 2, 5, 10, 20, ... that is not above v, and roundUp
// the next that is not below.
func roundDown(v float64) float64 {
	power := math.Pow(10, math.Floor(math.Log10(v)))
	for _, n := range []float64{5, 2} {
		if n*power <= v {
			return n * power
		}
	}
	return power
}

func roundUp(v float64) float64 {
	power := math.Pow(10, math.Floor(math.Log10(v)))
	for _, n := range []float64{1, 2, 5} {
		if n*power >= v {
			return n * power
		}
	}
	return 10 * power
}

// niceStep is 1, 2 or 5 times a power of ten, so that an axis has four to ten
// ticks.
func niceStep(span float64) float64 {
	power := math.Pow(10, math.Floor(math.Log10(span/4)))
	for _, n := range []float64{5, 2} {
		if span/(n*power) >= 4 {
			return n * power
		}
	}
	return power
}

// quantity writes a number for people.
func quantity(v float64) string {
	switch {
	case math.Abs(v) >= 1e6:
		return strconv.FormatFloat(v/1e6, 'g', 4, 64) + "M"
	case math.Abs(v) >= 1e4:
		return strconv.FormatFloat(v/1e3, 'g', 4, 64) + "k"
	}
	return strconv.FormatFloat(v, 'g', 4, 64)
}

// axes draws the grid and what the directions mean.
func (d *drawing) axes() {
	const floor = height - bottom
	for _, t := range d.Y.ticks(d.y) {
		y := d.y.at(t.at)
		d.put(`<path d="M%d %s H%d" stroke="%s" stroke-opacity="0.25"/>`, left, px(y), width-right, grey)
		d.put(`<text x="%d" y="%s" text-anchor="end">%s</text>`, left-8, px(y+4), escape(t.name))
	}
	for _, t := range d.X.ticks(d.x) {
		x := d.x.at(t.at)
		d.put(`<path d="M%s %d v5" stroke="%s"/>`, px(x), floor, grey)
		d.put(`<text x="%s" y="%d" text-anchor="middle">%s</text>`, px(x), floor+20, escape(t.name))
	}
	d.put(`<path d="M%d %s V%d H%d" stroke="%s" fill="none"/>`, left, px(d.top), floor, width-right, grey)
	d.put(`<text x="%d" y="%d" text-anchor="middle">%s</text>`, (left+width-right)/2, height-12, escape(d.X.Label))
	middle := px((d.top + floor) / 2)
	d.put(`<text x="16" y="%s" text-anchor="middle" transform="rotate(-90 16 %s)">%s</text>`, middle, middle, escape(d.Y.Label))
}
