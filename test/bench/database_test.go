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
	// pacedShare is the part of its full speed that a server is given to do where it
	// must keep up: busy, with something in hand as every server that is well.
	pacedShare = 0.6
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
	_, d := r.box(pool, orQuick(r, 24*volume.GiB, 16*volume.GiB))
	claim := orchestrator.Claim{Name: "database", Size: 2 * volume.GiB, FSType: volume.XFS}
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
	const pace = 250 * time.Millisecond
	loader, err := db.StartLoader(r.ctx, pace)
	r.must(err)

	r.tellDatabase(pool, load, fmt.Sprintf("%d rows of %d bytes every %s", mariadb.LoaderRows, mariadb.LoaderRowBytes, pace))
	full := r.fullSpeed(db, load)
	paced := load
	paced.Rate = int(full * pacedShare)
	w := &watch{run: r, pool: pool, name: "at a rate", plot: "database-rate-" + pool, driver: d, id: id, claim: &claim, rest: orQuick(r, 50*time.Second, 12*time.Second)}
	w.Line("")
	w.Line("**At a rate.** Transactions come at random times, %d in a second, %.0f %% of what the server took as fast as it could (%.0f): what is late", paced.Rate, 100*pacedShare, full)
	w.Line("waits in a queue. A window misses some only if the database did not keep up in it.")
	w.events(db, paced, loader, 3*volume.GiB, 4*volume.GiB)
	w = &watch{run: r, pool: pool, name: "at full speed", plot: "database-" + pool, driver: d, id: id, claim: &claim, rest: orQuick(r, 100*time.Second, 12*time.Second)}
	w.Line("")
	w.Line("**At full speed** sysbench goes as fast as the server answers, so whatever costs anything shows, and so does whatever else the machine does.")
	w.Line("The first row has no event and is as long as all the others: how far its worst window is from its median is the machine's own noise.")
	snap := w.events(db, load, loader, 5*volume.GiB, 6*volume.GiB)
	r.must(loader.Stop())
	r.recover(d, claim, snap, load)
	r.must(db.Stop())
	r.must(d.Client.Stop(r.ctx, id, "database", claim))
	d.Stop()
}

// fullSpeed is how many transactions a second the server takes, once the load is
// steady.
func (r *run) fullSpeed(db *mariadb.Server, load mariadb.Load) float64 {
	r.t.Helper()
	running, err := load.Start(db, partLimit)
	r.must(err)
	r.t.Cleanup(func() { _ = running.Stop() })
	time.Sleep(orQuick(r, 60*time.Second, 10*time.Second))
	seconds := running.Seconds()
	r.must(running.Stop())
	return mean(seconds[len(seconds)/2:])
}

// events lets the volume grow twice and be snapshotted under a load, and tells what
// became of it. It returns the snapshot.
func (w *watch) events(db *mariadb.Server, load mariadb.Load, loader *mariadb.Loader, sizes ...volume.Bytes) (snapshot string) {
	w.t.Helper()
	running, err := load.Start(db, partLimit)
	w.must(err)
	w.load = running
	w.t.Cleanup(func() {
		_ = running.Stop() // a part that ended in order has checked it
	})
	time.Sleep(orQuick(w.run, 10*time.Second, 5*time.Second))
	w.begin = time.Now()
	w.phase("nothing happens", w.rest, nil)
	for _, size := range sizes {
		w.phase(fmt.Sprintf("after growth to %s", size), orQuick(w.run, 25*time.Second, 11*time.Second), func() error {
			err := w.driver.Expand(w.ctx, w.id, "database", *w.claim, size)
			w.claim.Size = size
			return err
		})
	}
	w.phase("after the snapshot", orQuick(w.run, 50*time.Second, 12*time.Second), func() error {
		s, err := w.driver.Snapshot(w.ctx, "snapshot-of-"+w.plot, w.id)
		snapshot = s.GetSnapshotId()
		return err
	})
	w.must(errors.Join(running.Failed(), loader.Failed()))
	w.seconds = running.Seconds()
	w.must(running.Stop())
	w.tell()
	return snapshot
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
	name    string // of the kind of load
	plot    string // its file, without the ending
	driver  *harness.Driver
	id      string // of the volume, which claim is for
	claim   *orchestrator.Claim
	rest    time.Duration // how long nothing happens first
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
