package figures

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestPercentiles(t *testing.T) {
	var s Samples
	for i := range 100 {
		s = append(s, time.Duration(100-i)*time.Millisecond)
	}
	got := []time.Duration{s.Median(), s.Percentile(99), s.Max(), s.First(2).Max(), s.Last(2).Max(), Samples(nil).Median(), s.Last(1000).Max()}
	const ms = time.Millisecond
	if diff := cmp.Diff([]time.Duration{51 * ms, 100 * ms, 100 * ms, 100 * ms, 2 * ms, 0, 100 * ms}, got); diff != "" {
		t.Error(diff)
	}
}

func TestMilliseconds(t *testing.T) {
	for d, want := range map[time.Duration]string{0: "0.0", 12345 * time.Microsecond: "12.3", 81 * time.Microsecond: "0.081"} {
		if got := Milliseconds(d); got != want {
			t.Errorf("%s is written %q, want %q", d, got, want)
		}
	}
}

func TestAims(t *testing.T) {
	var p Page
	p.Aim("start", "2 s", "1 s", true)
	p.Aim("memory", "64 MiB", "70 MiB", false)
	p.WriteAims()
	for _, row := range []string{"| start | 2 s | 1 s | met |", "| memory | 64 MiB | 70 MiB | missed |"} {
		if !strings.Contains(p.String(), row) {
			t.Errorf("no row %s in\n%s", row, p.String())
		}
	}
	if diff := cmp.Diff([]string{"memory: aim 64 MiB, measured 70 MiB"}, p.Missed()); diff != "" {
		t.Error(diff)
	}
}
