package metric

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/holdfast-csi/holdfast/pkg/backend"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// pools is a Source that never changes.
type pools []backend.PoolStats

func (p pools) Stats() []backend.PoolStats { return p }

// scrape is what Prometheus gets.
func scrape(t testing.TB, s Source) string {
	t.Helper()
	w := httptest.NewRecorder()
	promhttp.HandlerFor(Gatherer(s), promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != 200 {
		t.Fatalf("%d: %s", w.Code, w.Body)
	}
	return w.Body.String()
}

// samples are the lines of a scrape that are no comments, in order.
func samples(page string) []string {
	var out []string
	for line := range strings.Lines(page) {
		if !strings.HasPrefix(line, "#") && !strings.Contains(line, "freeze_seconds") {
			out = append(out, strings.TrimSpace(line))
		}
	}
	return out
}

func TestAPoolThatWasNeverThereHasNoFigures(t *testing.T) {
	got := samples(scrape(t, pools{{
		Pool: volume.Pool{Name: "hdd", Reason: "no disk"}, Overcommit: 1,
		Conditions: []volume.Condition{{Severity: volume.Inaccessible, Reason: "PoolMissing", Message: "no disk"}},
	}}))
	want := []string{
		`holdfast_pool_admissions_refused_total{pool="hdd",pool_id=""} 0`,
		`holdfast_pool_available{pool="hdd",pool_id=""} 0`,
		`holdfast_pool_condition{pool="hdd",pool_id="",reason="PoolMissing",severity="inaccessible"} 1`,
		`holdfast_pool_info{filesystem="",pool="hdd",pool_id=""} 1`,
		`holdfast_pool_overcommit_ratio{pool="hdd",pool_id=""} 1`,
		`holdfast_pool_trash_emptied_total{pool="hdd",pool_id=""} 0`,
		`holdfast_pool_trimmed_bytes_total{pool="hdd",pool_id=""} 0`,
		`holdfast_thaws_total{by="deadline",pool="hdd",pool_id=""} 0`,
		`holdfast_thaws_total{by="other",pool="hdd",pool_id=""} 0`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestAVolumeInFigures(t *testing.T) {
	page := scrape(t, pools{{
		Pool: volume.Pool{Name: "p", ID: "00000000000000aa", Available: true}, Looked: time.Unix(1000, 0), Filesystem: "btrfs",
		Size: 100, Free: 60, Promised: 10, Room: 40, Overcommit: 1.5, Snapshots: 3, Damaged: 1, Trash: 2, Image: true, ImageDirectIO: true,
		Counters: backend.PoolCounters{ThawedLate: 1, Freezes: backend.Histogram{Count: 2, Sum: 0.3, Buckets: map[float64]uint64{0.1: 1, 1: 2}}},
		Volumes: []backend.VolumeStats{
			{ID: "vol.a", Size: 10, Used: 8, InPlace: 4, Charge: 6, Extents: 7, Snapshots: 3, Attached: 1, DirectIO: true},
			{ID: "vol.b", Size: 10, Conditions: []volume.Condition{{Severity: volume.Lost, Reason: "ImageTooShort", Message: "x"}}},
		},
	}})
	for _, want := range []string{
		`holdfast_pool_info{filesystem="btrfs",pool="p",pool_id="00000000000000aa"} 1`,
		`holdfast_pool_volumes{pool="p",pool_id="00000000000000aa"} 2`,
		`holdfast_pool_room_bytes{pool="p",pool_id="00000000000000aa"} 40`,
		`holdfast_pool_image_direct_io{pool="p",pool_id="00000000000000aa"} 1`,
		`holdfast_pool_looked_timestamp_seconds{pool="p",pool_id="00000000000000aa"} 1000`,
		`holdfast_freeze_seconds_bucket{pool="p",pool_id="00000000000000aa",le="0.1"} 1`,
		`holdfast_freeze_seconds_count{pool="p",pool_id="00000000000000aa"} 2`,
		`holdfast_volume_exclusive_bytes{pool="p",volume="vol.a"} 4`,
		`holdfast_volume_extents{pool="p",volume="vol.a"} 7`,
		`holdfast_volume_healthy{pool="p",volume="vol.a"} 1`,
		`holdfast_volume_healthy{pool="p",volume="vol.b"} 0`,
		`holdfast_volume_condition{pool="p",reason="ImageTooShort",severity="lost",volume="vol.b"} 1`,
	} {
		if !strings.Contains(page, want+"\n") {
			t.Errorf("missing %s", want)
		}
	}
	for _, absent := range []string{`extents{pool="p",volume="vol.b"}`, `direct_io{pool="p",volume="vol.b"}`} {
		if strings.Contains(page, absent) {
			t.Errorf("nobody knows %s", absent)
		}
	}
}

func TestWhatIsCollectedIsWhatWasDescribed(t *testing.T) {
	r := prometheus.NewPedanticRegistry() // checks that Describe tells what Collect gives
	if err := r.Register(New(thousand())); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Gather(); err != nil {
		t.Error(err)
	}
}

// thousand is a pool with a thousand volumes, all attached, measured and sick.
func thousand() pools {
	p := backend.PoolStats{Pool: volume.Pool{Name: "default", ID: "00000000000000aa", Available: true}, Looked: time.Unix(1000, 0), Size: 1 << 40, Image: true}
	for i := range 1000 {
		p.Volumes = append(p.Volumes, backend.VolumeStats{
			ID: volume.NewID(volume.KindVolume, p.ID, fmt.Sprint(i)), Size: 1 << 30, Extents: i + 1, Attached: 1,
			Conditions: []volume.Condition{{Severity: volume.Degraded, Reason: "DirectIOOff", Message: "x"}},
		})
	}
	return pools{p}
}

func BenchmarkScrapeOfAThousandVolumes(b *testing.B) {
	s := thousand()
	g := promhttp.HandlerFor(Gatherer(s), promhttp.HandlerOpts{})
	for b.Loop() {
		w := httptest.NewRecorder()
		g.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
		if w.Body.Len() < 1<<20 {
			b.Fatalf("%d bytes", w.Body.Len())
		}
	}
}
