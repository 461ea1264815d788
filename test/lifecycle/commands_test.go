package lifecycle

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-csi/holdfast/pkg/backend/local"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func TestPoolCommands(t *testing.T) {
	s := newSite(t, 2*volume.GiB)
	s.run("beside a driver whose pods write", besideARunningDriver)
}

func besideARunningDriver(s *site) {
	t := s.t
	busy, idle := s.launch(ext4("busy")), s.launch(xfs("idle"))
	writer := busy.journal()
	idle.write("data", 1)
	idle.stop()
	state := "--state-dir=" + s.box.State()

	out, err := s.box.Run("pool", "check", "--output=json", state)
	s.must(err)
	var checks []local.PoolCheck
	s.must(json.Unmarshal([]byte(out), &checks))
	if len(checks) != 1 || checks[0].Volumes != 2 || checks[0].Filesystems != 1 || checks[0].InUse != 1 || len(checks[0].Findings) > 0 {
		t.Errorf("check printed %s", out)
	}
	if text := s.command("pool", "check"); !has("all is well")(text) {
		t.Errorf("check printed %s", text)
	}
	st := s.status("default")[0]
	if len(st.Objects) != 2 || st.Use == nil {
		t.Fatalf("status printed %+v", st)
	}
	for _, o := range st.Objects {
		attached := o.ID == volume.ID(busy.id)
		if o.Used < dataSize/2 && !attached || (o.Device != "") != attached {
			t.Errorf("%+v", o)
		}
	}
	text := s.command("pool", "status", "default")
	for _, words := range []string{busy.id, idle.id, "PINNED BY SNAPSHOTS", "ballast", "promised"} {
		if !has(words)(text) {
			t.Errorf("status does not speak of %q:\n%s", words, text)
		}
	}
	// An idle volume starts while its filesystem is being looked through.
	ended := make(chan error, 1)
	go func() {
		_, err := s.box.Run("pool", "check", state)
		ended <- err
	}()
	idle.start()
	idle.verify("data", 1)
	s.must(<-ended)
	s.mustGoOn(writer)
	t.Logf("longest stall of the writer: %s", writer.Stall())

	// A problem is found, and makes the command fail.
	record := filepath.Join(s.pool, "volumes", idle.id, "volume.json")
	good, err := os.ReadFile(record)
	s.must(err)
	s.must(os.WriteFile(record, []byte(strings.Replace(string(good), `"size"`, `"sice"`, 1)), 0o600))
	out, err = s.box.Run("pool", "check", state)
	if err == nil || !has("1 problems were found")(err.Error()) || !has("problem: "+idle.id)(out) || !has("do: do not remove it")(out) {
		t.Errorf("check of a rotten record: %v\n%s", err, out)
	}
	s.must(os.WriteFile(record, good, 0o600))

	if _, err := s.box.Run("pool", "status", state, "tape"); err == nil || !has("no pool tape")(err.Error()) {
		t.Errorf("status of a pool that is not: %v", err)
	}
	if _, err := s.box.Run("pool", "status", state, "--output=yaml"); err == nil {
		t.Error("status prints yaml")
	}

	// The state directory is lost. Pods go on; the pool is away until it is adopted.
	s.driver.Stop()
	s.must(os.Rename(s.box.State(), s.box.State()+".lost"))
	s.driver = s.box.Start()
	s.mustGoOn(writer)
	busy.mustBeAway("driver pool adopt default=")
	text = s.command("pool", "adopt", s.box.Pools())
	for _, words := range []string{busy.id, idle.id, "kubectl label node OLD-NODE topology.csi.holdfast.dev/pool-" + poolOf(busy.id) + "-", "--pool=default=" + s.box.Pools(), "--pool-size=default=2147483648"} {
		if !has(words)(text) {
			t.Errorf("adopt does not speak of %q:\n%s", words, text)
		}
	}
	busy.mustReturn()
	idle.verify("data", 1)
}
