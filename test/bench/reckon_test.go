package bench

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/holdfast-csi/holdfast/test/mariadb"
)

func TestWindowsSlideBySeconds(t *testing.T) {
	var seconds []mariadb.Second
	for i := range 12 {
		seconds = append(seconds, mariadb.Second{At: time.Unix(int64(i), 0), Transactions: float64(i)})
	}
	if diff := cmp.Diff([]float64{4.5, 5.5, 6.5}, windows(seconds)); diff != "" {
		t.Error(diff)
	}
	if got := windows(seconds[:9]); got != nil {
		t.Errorf("nine seconds have the windows %v", got)
	}
	w := watch{seconds: seconds}
	if got := w.within(time.Unix(3, 0), time.Unix(5, 0)); len(got) != 2 || got[0].Transactions != 4 {
		t.Errorf("within (3, 5]: %v", got)
	}
}

func TestSpread(t *testing.T) {
	for _, tt := range []struct {
		values []float64
		want   spread
	}{
		{nil, spread{}},
		{[]float64{2}, spread{2, 2, 2}},
		{[]float64{3, 1, 2}, spread{1, 2, 3}},
		{[]float64{4, 1, 2, 3}, spread{1, 2.5, 4}},
	} {
		if diff := cmp.Diff(tt.want, spreadOf(tt.values), cmp.AllowUnexported(spread{}), cmpopts.EquateApprox(0, 1e-9)); diff != "" {
			t.Errorf("%v: %s", tt.values, diff)
		}
	}
}

func TestOverwritesForSoManyExtents(t *testing.T) {
	// Measured: 100,000 random blocks of 262,144 gave 161,765 extents.
	if n := overwritesFor(161_765, 262_144); n < 95_000 || n > 105_000 {
		t.Errorf("for 161,765 extents %d blocks", n)
	}
	if n := overwritesFor(0, 1000); n != 0 {
		t.Errorf("for no extent %d blocks", n)
	}
	if n := overwritesFor(5000, 1000); n != 1000 {
		t.Errorf("for more extents than blocks %d of 1000", n)
	}
}

func TestFioIsUnderstood(t *testing.T) {
	const answer = `fio: a warning
{"jobs": [{"error": 0,
  "read": {"iops": 100.5, "bw_bytes": 411648, "clat_ns": {"percentile": {"99.000000": 2000000}}},
  "write": {"iops": 0, "bw_bytes": 0, "clat_ns": {}}}]}`
	have, err := parseFio([]byte(answer), load{mode: "randread"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(outcome{100.5, 411648, 2 * time.Millisecond}, have, cmp.AllowUnexported(outcome{})); diff != "" {
		t.Error(diff)
	}
	for _, bad := range []string{"", "{", `{"jobs": []}`, strings.Replace(answer, `"error": 0`, `"error": 28`, 1)} {
		if out, err := parseFio([]byte(bad), load{mode: "read"}); err == nil {
			t.Errorf("%q was understood as %+v", bad, out)
		}
	}
	if _, err := parseFio([]byte(answer), load{mode: "write"}); err == nil {
		t.Error("a load that wrote nothing passed")
	}
}
