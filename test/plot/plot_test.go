package plot

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// golden compares a drawing with the one that a person has looked at. With
// HOLDFAST_UPDATE=1 it writes it anew.
func golden(t *testing.T, name string, have []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if os.Getenv("HOLDFAST_UPDATE") == "1" {
		if err := os.WriteFile(path, have, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(have)); diff != "" {
		t.Errorf("%s has changed (-want +have); look at it, then HOLDFAST_UPDATE=1 go test:\n%s", path, diff)
	}
}

var (
	logarithmic = Chart{
		Title: "Times against extents",
		X:     Axis{Label: "extents of the image", Log: true},
		Y:     Axis{Label: "ms", Log: true},
		Lines: []Line{
			{Name: "btrfs, snapshot", Dots: true, Points: []Point{{10, 50, 40, 60}, {1e3, 52, 41, 90}, {3e5, 85, 60, 140}}},
			{Name: "xfs, snapshot", Dots: true, Points: []Point{{12, 16, 0, 0}, {1.2e3, 40, 30, 55}, {3e5, 9000, 8000, 12000}}},
		},
	}
	categories = Chart{
		Title:  "Volume / plain file",
		X:      Axis{Label: "snapshots", Names: []string{"0", "1", "5", "50"}},
		Y:      Axis{Label: "ratio"},
		Levels: []Level{{Name: "aim 0.95", Y: 0.95}},
		Lines: []Line{
			{Name: "read", Dots: true, Points: []Point{{0, 0.98, 0.9, 1.02}, {1, 0.97, 0.96, 0.98}, {2, 0.99, 0.97, 1.1}, {3, 0.95, 0.94, 0.96}}},
			{Name: "write", Dots: true, Points: []Point{{0, 0.91, 0.8, 1}, {1, 0.93, 0.9, 0.95}, {2, 0.94, 0.9, 0.97}, {3, 0.9, 0.7, 0.96}}},
		},
	}
	timeline = Chart{
		Title: "Transactions per second",
		X:     Axis{Label: "seconds"},
		Y:     Axis{Label: "transactions/s"},
		Marks: []Mark{{Name: "grown to 4 GiB", X: 3}, {Name: "snapshot <1>", X: 5}},
		Lines: []Line{{Name: "each second", Faint: true, Points: []Point{{X: 1, Y: 310}, {X: 2, Y: 305}, {X: 3, Y: 290}, {X: 4, Y: 312}, {X: 5, Y: 120}, {X: 6, Y: 250}}}, {Name: "10 s", Points: []Point{{X: 1, Y: 300}, {X: 6, Y: 298}}}},
	}
)

func TestChartsLookAsTheyDid(t *testing.T) {
	golden(t, "logarithmic.svg", logarithmic.SVG())
	golden(t, "categories.svg", categories.SVG())
	golden(t, "timeline.svg", timeline.SVG())
}

func TestEveryChartIsWellFormed(t *testing.T) {
	empty := Chart{Title: "nothing & <no one>", X: Axis{Log: true}}
	onePoint := Chart{Lines: []Line{{Points: []Point{{X: 5, Y: 0}}}}}
	notPositive := Chart{Y: Axis{Log: true}, Lines: []Line{{Points: []Point{{X: 1, Y: 0}, {X: 2, Y: -1}, {X: 3, Y: 7, Low: 0, High: 9}}}}}
	for _, c := range []Chart{logarithmic, categories, timeline, empty, onePoint, notPositive} {
		text := string(c.SVG())
		if strings.Contains(text, "NaN") || strings.Contains(text, "Inf") {
			t.Errorf("%q has coordinates that are no numbers:\n%s", c.Title, text)
		}
		for d := xml.NewDecoder(strings.NewReader(text)); ; {
			_, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%q: %v\n%s", c.Title, err, text)
			}
		}
	}
}

func TestTicksAreFewAndRound(t *testing.T) {
	for _, tt := range []struct {
		axis   Axis
		values []float64
		want   string
	}{
		{Axis{}, []float64{3, 97}, "0 20 40 60 80 100"},
		{Axis{}, []float64{0.2, 1.04}, "0 0.2 0.4 0.6 0.8 1 1.2"},
		{Axis{}, []float64{0}, "0 0.2 0.4 0.6 0.8 1"},
		{Axis{Log: true}, []float64{7, 300_000}, "10 100 1000 10k 100k"},
		{Axis{Log: true}, []float64{1, 1024}, "1 10 100 1000"},
		{Axis{Log: true}, []float64{17, 83}, "10 20 50 100"},
		{Axis{Log: true}, []float64{10}, "10 20 50 100"},
		{Axis{Names: []string{"a", "b"}}, nil, "a b"},
	} {
		var have []string
		for _, tick := range tt.axis.ticks(tt.axis.scale(tt.values)) {
			have = append(have, tick.name)
		}
		if got := strings.Join(have, " "); got != tt.want {
			t.Errorf("%v of %+v: %s, want %s", tt.values, tt.axis, got, tt.want)
		}
	}
}
