package bench

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/orchestrator"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/test/harness"
	"github.com/holdfast-csi/holdfast/test/mariadb"
)

const (
	// window is the time over which throughput is compared, and dipAim how much of
	// the median before may be missing in the worst window.
	window = 10 * time.Second
	dipAim = 0.05
)

// databaseOptions make the load steady: all data fits into the buffer pool, and the
// log is so small that its checkpoints are under way before the first window.
var databaseOptions = []string{"--innodb-buffer-pool-size=2560M", "--innodb-log-file-size=192M", "--innodb-io-capacity=2000", "--innodb-io-capacity-max=4000"}

// database measures MariaDB under sysbench, with a bulk loader beside it, while its
// volume grows twice and is snapshotted; then it restores the snapshot and lets a
// second server recover on it.
func database(r *run, pool string) {
	if missing := mariadb.Missing(); len(missing) > 0 {
		r.must(fmt.Errorf("not installed: %s", strings.Join(missing, ", ")))
	}
	_, d := r.box(pool, 16*volume.GiB)
	claim := orchestrator.Claim{Name: "database", Size: volume.GiB, FSType: volume.XFS}
	v, err := d.Create(r.ctx, claim)
	r.must(err)
	id := v.GetVolumeId()
	target, err := d.Client.Start(r.ctx, id, "database", claim, false)
	r.must(err)
	r.must(mariadb.Install(r.ctx, filepath.Join(target, "data")))
	db, err := mariadb.Start(r.ctx, mariadb.Config{Dir: filepath.Join(target, "data"), Options: databaseOptions})
	r.must(err)
	r.t.Cleanup(db.Kill)
	load := mariadb.Load{Tables: 4, Rows: orQuick(r, 100_000, 10_000), Threads: 4}
	r.must(load.Prepare(r.ctx, db))

	w := &watch{run: r, pool: pool}
	w.load, err = load.Start(db, time.Hour)
	r.must(err)
	r.t.Cleanup(func() {
		_ = w.load.Stop() // a part that ended in order has checked it
	})
	const pace = 250 * time.Millisecond
	loader, err := db.StartLoader(r.ctx, pace)
	r.must(err)
	time.Sleep(orQuick(r, 35*time.Second, 10*time.Second)) // until the load is steady

	w.begin = time.Now()
	w.phase("before, nothing happens", orQuick(r, 50*time.Second, 12*time.Second), nil)
	for _, size := range []volume.Bytes{2 * volume.GiB, 4 * volume.GiB} {
		w.phase(fmt.Sprintf("after growth to %s", size), orQuick(r, 25*time.Second, 11*time.Second), func() error {
			return d.Expand(r.ctx, id, "database", claim, size)
		})
	}
	claim.Size = 4 * volume.GiB
	var snap string
	w.phase("after the snapshot", orQuick(r, 50*time.Second, 12*time.Second), func() error {
		s, err := d.Snapshot(r.ctx, "database-snapshot", id)
		snap = s.GetSnapshotId()
		return err
	})
	r.must(w.load.Failed())
	w.seconds = w.load.Seconds()
	r.must(w.load.Stop())
	r.must(loader.Stop())
	w.tell(load, fmt.Sprintf("%d rows of %d bytes every %s", mariadb.LoaderRows, mariadb.LoaderRowBytes, pace))
	r.recover(d, claim, snap, load)
	r.must(db.Stop())
	r.must(d.Client.Stop(r.ctx, id, "database", claim))
	d.Stop()
}

// recover restores the snapshot of a running database and checks all its tables.
func (r *run) recover(d *harness.Driver, claim orchestrator.Claim, snap string, load mariadb.Load) {
	r.t.Helper()
	claim.Name, claim.Snapshot = "database-restored", snap
	start := time.Now()
	v, err := d.Create(r.ctx, claim)
	r.must(err)
	created := time.Since(start)
	target, err := d.Client.Start(r.ctx, v.GetVolumeId(), "second", claim, false)
	r.must(err)
	mounted := time.Since(start) - created
	db, err := mariadb.Start(r.ctx, mariadb.Config{Dir: filepath.Join(target, "data"), Options: databaseOptions})
	r.must(err)
	r.t.Cleanup(db.Kill)
	ready := time.Since(start) - created - mounted
	if !db.Recovered() {
		r.must(errors.New("the second server had nothing to recover, so the snapshot was not of a running one"))
	}
	r.must(db.CheckTables(r.ctx))
	rows, err := db.Rows(r.ctx)
	r.must(err)
	torn, err := db.Torn(r.ctx)
	r.must(err)
	bulk := rows["bulk"]
	for name, n := range rows {
		if name != "bulk" && n != int64(load.Rows) {
			r.must(fmt.Errorf("table %s has %d rows, want %d", name, n, load.Rows))
		}
	}
	if torn != 0 || bulk == 0 || bulk%mariadb.LoaderRows != 0 {
		r.must(fmt.Errorf("the bulk table has %d rows, %d of them torn; each transaction adds %d", bulk, torn, mariadb.LoaderRows))
	}
	r.Line("")
	r.Line("The snapshot was restored to a new volume in %s ms, which was staged and published in %s ms. A second MariaDB on it replayed", ms(created), ms(mounted))
	r.Line("its log and answered after %.1f s. `CHECK TABLE ... EXTENDED` is clean for all %d tables (%s); each has whole transactions:", ready.Seconds(), len(rows), strings.Join(slices.Sorted(maps.Keys(rows)), ", "))
	r.Line("%d rows in each table of the load, %d in the bulk table, none of them torn.", load.Rows, bulk)
	r.must(db.Stop())
	r.must(d.Client.Stop(r.ctx, v.GetVolumeId(), "second", claim))
}

// watch is the throughput of a database while things happen to its volume.
type watch struct {
	*run
	pool    string
	load    *mariadb.Run
	begin   time.Time
	phases  []phase
	seconds []mariadb.Second
}

// phase is what follows an event, until the next.
type phase struct {
	name     string
	from, to time.Time
	took     time.Duration // the event itself; 0 if there was none
}

// phase lets an event happen and watches what follows.
func (w *watch) phase(name string, length time.Duration, event func() error) {
	w.t.Helper()
	p := phase{name: name, from: time.Now()}
	if event != nil {
		w.must(event())
		p.took = time.Since(p.from)
	}
	time.Sleep(time.Until(p.from.Add(length)))
	p.to = time.Now()
	w.must(w.load.Failed())
	w.phases = append(w.phases, p)
}

// within are the seconds that ended in a time, and with them began, but for the
// first that an event fell into, which belongs to it.
func (w *watch) within(from, to time.Time) []mariadb.Second {
	var out []mariadb.Second
	for _, s := range w.seconds {
		if s.At.After(from) && !s.At.After(to) {
			out = append(out, s)
		}
	}
	return out
}

// mean is the transactions per second of some seconds.
func mean(seconds []mariadb.Second) float64 {
	sum := 0.0
	for _, s := range seconds {
		sum += s.Transactions
	}
	return sum / float64(max(1, len(seconds)))
}

// windows are the means of all windows in some seconds, each a second after the
// last.
func windows(seconds []mariadb.Second) []float64 {
	const n = int(window / time.Second)
	var out []float64
	for i := 0; i+n <= len(seconds); i++ {
		out = append(out, mean(seconds[i:i+n]))
	}
	return out
}
