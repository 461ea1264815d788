package lifecycle

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/test/harness"
	"github.com/holdfast-csi/holdfast/test/mariadb"
)

// databaseLoad is small: this is about what is right, not about how fast it is.
var databaseLoad = mariadb.Load{Tables: 2, Rows: 20_000, Threads: 4}

// TestADatabaseIsWholeInItsSnapshot runs MariaDB under load while its volume grows
// twice and is snapshotted. What was committed before the snapshot is in the
// restored volume, what was committed later is not, and no row is torn.
func TestADatabaseIsWholeInItsSnapshot(t *testing.T) {
	if missing := mariadb.Missing(); len(missing) > 0 {
		t.Skipf("not installed: %s (make test-packages)", strings.Join(missing, ", "))
	}
	harness.OnEachFilesystem(t, databaseInASnapshot)
}

func databaseInASnapshot(t *testing.T, flag string) {
	s := newSite(t, 10*volume.GiB, flag)
	claim := xfs("database")
	claim.Size = volume.GiB
	p := s.launch(claim)
	db := p.newDatabase()
	s.must(databaseLoad.Prepare(s.ctx, db))
	mark := func(db *mariadb.Server, name string) {
		t.Helper()
		_, err := db.Query(s.ctx, "CREATE TABLE IF NOT EXISTS "+mariadb.Database+".marks (name VARCHAR(20) PRIMARY KEY); INSERT INTO "+mariadb.Database+".marks VALUES ('"+name+"')")
		s.must(err)
	}
	load, err := databaseLoad.Start(db, 5*time.Minute)
	s.must(err)
	loader, err := db.StartLoader(s.ctx, 50*time.Millisecond)
	s.must(err)
	time.Sleep(2 * time.Second)
	for _, size := range []volume.Bytes{2 * volume.GiB, 3 * volume.GiB} {
		s.must(s.driver.Expand(s.ctx, p.id, p.name, p.claim, size))
		p.mustSee(size)
		time.Sleep(2 * time.Second)
	}
	p.claim.Size = 3 * volume.GiB
	mark(db, "before")
	snap := p.snapshot("database-snapshot")
	mark(db, "after")
	time.Sleep(2 * time.Second)
	s.must(load.Stop())
	s.must(loader.Stop())
	var transactions float64
	for _, second := range load.Seconds() {
		transactions += second.Transactions
	}
	if transactions == 0 {
		t.Error("the load made no transaction, so the snapshot shows nothing")
	}
	s.limit()
	p.mustBeWhole(db, "after before")
	s.must(db.Stop())

	restored := s.launch(p.copyOf("database-restored", snap))
	db = restored.openDatabase()
	if !db.Recovered() {
		t.Errorf("the server found nothing to recover in the snapshot of a running one: %s", db.Log())
	}
	restored.mustBeWhole(db, "before")
	s.must(db.Stop())
	s.must(s.driver.DeleteSnapshot(s.ctx, snap))
	restored.retire()
	p.retire()
}

// newDatabase makes a database on the pod's volume and starts it.
func (p *pod) newDatabase() *mariadb.Server {
	p.t.Helper()
	p.must(mariadb.Install(p.ctx, filepath.Join(p.target, "data")))
	return p.openDatabase()
}

// openDatabase starts the server of the database on the pod's volume; it ends with
// the test.
func (p *pod) openDatabase() *mariadb.Server {
	p.t.Helper()
	db, err := mariadb.Start(p.ctx, mariadb.Config{Dir: filepath.Join(p.target, "data"), Options: []string{"--innodb-buffer-pool-size=128M"}})
	p.must(err)
	p.t.Cleanup(db.Kill)
	return db
}

// mustBeWhole checks every table, and that each holds whole transactions.
func (p *pod) mustBeWhole(db *mariadb.Server, marks string) {
	p.t.Helper()
	p.must(db.CheckTables(p.ctx))
	rows, err := db.Rows(p.ctx)
	p.must(err)
	// A transaction of the load deletes a row and inserts one.
	if want := int64(databaseLoad.Rows); rows["sbtest1"] != want || rows["sbtest2"] != want {
		p.t.Errorf("%s: the tables of the load have %v rows, want %d in each", p.claim.Name, rows, want)
	}
	if bulk := rows["bulk"]; bulk == 0 || bulk%mariadb.LoaderRows != 0 {
		p.t.Errorf("%s: the bulk table has %d rows; each transaction adds %d", p.claim.Name, bulk, mariadb.LoaderRows)
	}
	torn, err := db.Torn(p.ctx)
	p.must(err)
	if torn > 0 {
		p.t.Errorf("%s: %d rows of the bulk table are torn", p.claim.Name, torn)
	}
	have, err := db.Query(p.ctx, "SELECT name FROM "+mariadb.Database+".marks ORDER BY name")
	p.must(err)
	if diff := cmp.Diff(marks, strings.Join(strings.Fields(have), " ")); diff != "" {
		p.t.Errorf("%s: the marks are not those of its time (-want +have):\n%s", p.claim.Name, diff)
	}
}
