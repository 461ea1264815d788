package sealed

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/filesystem"
	"github.com/holdfast-csi/holdfast/pkg/orchestrator"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/pkg/workload"
	"github.com/holdfast-csi/holdfast/test/harness"
)

const (
	costRounds = 5
	costFile   = 512 * volume.MiB
)

// leg is a file of a volume, and how it is opened.
type leg struct {
	name   string
	dir    string
	direct bool
}

// load is something that is done to a file, and how fast it was, per second.
type load struct {
	name string
	unit string
	run  func(leg) (float64, error)
}

// BenchmarkDataPath measures what sealing costs: the same loads on files of sealed and
// of plain ext4 volumes of one pool, one after the other in every round, in alternating
// order. It writes a table of the rates and of the ratios to the plain one with direct
// I/O in the same round: median (smallest to largest). It takes about eight
// minutes.
//
//	HOLDFAST_ROOT_TESTS=1 go test ./test/sealed -run '^$' -bench DataPath -benchtime 1x -timeout 20m
func BenchmarkDataPath(b *testing.B) {
	if _, err := exec.LookPath("fio"); err != nil {
		b.Skip("there is no fio: apt-get install fio")
	}
	for _, fsType := range harness.Filesystems() {
		b.Run("pool on "+fsType, func(b *testing.B) {
			for range b.N {
				dataPath(b, harness.OnFilesystem(fsType))
			}
		})
	}
}

func dataPath(b *testing.B, flag string) {
	s := newSite(b, 6*volume.GiB, flag)
	claim := func(name string) orchestrator.Claim {
		return orchestrator.Claim{Name: name, Size: volume.GiB}
	}
	plain := s.plain(claim("plain"))
	plain.stage()
	sealed, inline := s.ext4(claim("sealed")), s.ext4(claim("inline"))
	s.must(unix.Mount("", inline.Staging, "", unix.MS_REMOUNT|unix.MS_NOSUID|unix.MS_NODEV, "inlinecrypt"))
	keeper := newKeeper(b)
	legs := []leg{
		{"plain, direct", plain.Staging, true},
		{"plain, buffered", plain.Staging, false},
		{"sealed", sealed.publish(keeper, "pod-1"), true},
		{"sealed, inlinecrypt", inline.publish(keeper, "pod-1"), true},
	}
	var table strings.Builder // a benchmark's log has ten lines
	fmt.Fprintf(&table, "cipher: %s; ", cipherOf(b))
	for _, l := range legs {
		path := filepath.Join(l.dir, "file")
		s.must(workload.Write(path, 1, costFile, true))
		f, err := os.Open(path)
		s.must(err)
		look, err := LookAt(f)
		s.must(errors.Join(err, f.Close()))
		fmt.Fprintf(&table, "%s: direct I/O in units of %d; ", l.name, look.DirectAlign)
	}
	loads := costLoads()
	pool, err := os.Open(filepath.Join(s.box.Pools(), "pool"))
	s.must(err)
	defer pool.Close()
	rates := make([][][]float64, len(loads)) // by load and leg
	for i := range rates {
		rates[i] = make([][]float64, len(legs))
	}
	for round := range costRounds {
		for i, ld := range loads {
			for j := range legs {
				if round%2 == 1 {
					j = len(legs) - 1 - j
				}
				s.must(filesystem.Sync(pool)) // what the leg before has left
				rate, err := ld.run(legs[j])
				s.must(err)
				rates[i][j] = append(rates[i][j], rate)
			}
		}
	}
	table.WriteString("\n| load | plain, direct |")
	for _, l := range legs[1:] {
		fmt.Fprintf(&table, " %s |", l.name)
	}
	for i, ld := range loads {
		fmt.Fprintf(&table, "\n| %s | %.0f %s |", ld.name, middle(rates[i][0]), ld.unit)
		for j := range legs[1:] {
			var ratios []float64
			for round, rate := range rates[i][j+1] {
				ratios = append(ratios, rate/rates[i][0][round])
			}
			fmt.Fprintf(&table, " %.0f; %.2f (%.2f to %.2f) |", middle(rates[i][j+1]), middle(ratios), slices.Min(ratios), slices.Max(ratios))
		}
	}
	b.Log(table.String())
	plain.unstage()
	sealed.end("pod-1")
	inline.end("pod-1")
}

// costLoads are the loads. Reads find nothing in memory; writes count until they are
// synced.
func costLoads() []load {
	fio := func(args ...string) func(leg) (float64, error) {
		return func(l leg) (float64, error) { return runFio(l, args...) }
	}
	const small, large = "--bs=4k", "--bs=1M"
	return []load{
		{"4k random read, depth 16", "/s", fio("--rw=randread", small, "--iodepth=16", "--runtime=2s")},
		{"4k random write, depth 16, synced at the end", "/s", fio("--rw=randwrite", small, "--iodepth=16", "--io_size=32M", "--end_fsync=1")},
		{"1M sequential read", "MiB/s", fio("--rw=read", large, "--iodepth=4", "--io_size=128M")},
		{"1M sequential write, synced at the end", "MiB/s", fio("--rw=write", large, "--iodepth=4", "--io_size=128M", "--end_fsync=1")},
		{"4k append, each synced", "/s", appends},
	}
}

// runFio is how many operations of 4 KiB, or MiB, fio does a second.
func runFio(l leg, args ...string) (float64, error) {
	direct := 0
	if l.direct {
		direct = 1
	}
	args = append([]string{
		"--name=load", "--output-format=json", "--ioengine=libaio", fmt.Sprintf("--direct=%d", direct), "--randrepeat=0",
		"--filename=" + strings.ReplaceAll(filepath.Join(l.dir, "file"), ":", `\:`), fmt.Sprintf("--size=%d", costFile),
	}, args...)
	out, err := exec.Command("fio", args...).Output()
	if err != nil {
		return 0, fmt.Errorf("fio on %s: %w: %.500s", l.name, err, out)
	}
	type direction struct {
		IOPS float64 `json:"iops"`
	}
	var result struct {
		Jobs []struct {
			Error int       `json:"error"`
			Read  direction `json:"read"`
			Write direction `json:"write"`
		} `json:"jobs"`
	}
	start := strings.IndexByte(string(out), '{')
	if start < 0 {
		return 0, fmt.Errorf("fio on %s answered no JSON: %.200s", l.name, out)
	}
	if err := json.Unmarshal(out[start:], &result); err != nil {
		return 0, err
	}
	if len(result.Jobs) != 1 || result.Jobs[0].Error != 0 {
		return 0, fmt.Errorf("fio on %s ended with an error: %.500s", l.name, out)
	}
	return result.Jobs[0].Read.IOPS + result.Jobs[0].Write.IOPS, nil
}

// appends writes 4 KiB and syncs, for a second, as a database does with its log.
func appends(l leg) (float64, error) {
	f, err := os.Create(filepath.Join(l.dir, "log"))
	if err != nil {
		return 0, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	record := []byte(strings.Repeat("record! ", 512))
	began, n := time.Now(), 0
	for ; time.Since(began) < time.Second; n++ {
		if _, err := f.Write(record); err != nil {
			return 0, err
		}
		if err := f.Sync(); err != nil {
			return 0, err
		}
	}
	return float64(n) / time.Since(began).Seconds(), nil
}

// cipherOf is what the kernel encrypts contents with: without the instructions of the
// processor it is slow, and that is then most of what is measured.
func cipherOf(t testing.TB) string {
	t.Helper()
	text, err := os.ReadFile("/proc/crypto")
	if err != nil {
		t.Fatal(err)
	}
	for entry := range strings.SplitSeq(string(text), "\n\n") {
		if fields := strings.Fields(entry); len(fields) > 5 && fields[2] == "xts(aes)" {
			return fields[5]
		}
	}
	return "none that is loaded"
}

func middle(of []float64) float64 {
	sorted := slices.Sorted(slices.Values(of))
	return sorted[len(sorted)/2]
}
