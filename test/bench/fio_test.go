package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// load is what fio does to a region of a file or device.
type load struct {
	name      string // for people
	mode      string // fio's --rw
	blockSize int    // bytes
	depth     int
	runtime   time.Duration
}

func (l load) reads() bool { return strings.Contains(l.mode, "read") }

// region is a part of a file or block device, filled before.
type region struct {
	path         string
	offset, size volume.Bytes
}

// outcome is what fio measured.
type outcome struct {
	perSecond float64       // operations
	bytes     float64       // per second
	p99       time.Duration // completion latency
}

// fio runs a load with direct I/O for its time.
func fio(ctx context.Context, l load, on region) (outcome, error) {
	return runFio(ctx, l, on, "--time_based", fmt.Sprintf("--runtime=%dms", l.runtime.Milliseconds()))
}

// fioSome runs a load until it has written size bytes.
func fioSome(ctx context.Context, l load, on region, size volume.Bytes) error {
	_, err := runFio(ctx, l, on, fmt.Sprintf("--io_size=%d", size))
	return err
}

func runFio(ctx context.Context, l load, on region, limit ...string) (outcome, error) {
	args := append([]string{
		"--name=load", "--output-format=json", "--ioengine=libaio", "--direct=1", "--randrepeat=0", "--norandommap",
		"--filename=" + strings.ReplaceAll(on.path, ":", `\:`), "--rw=" + l.mode,
		fmt.Sprintf("--bs=%d", l.blockSize), fmt.Sprintf("--iodepth=%d", l.depth), fmt.Sprintf("--offset=%d", on.offset), fmt.Sprintf("--size=%d", on.size),
	}, limit...)
	cmd := exec.CommandContext(ctx, "fio", args...)
	var complaint strings.Builder
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		return outcome{}, fmt.Errorf("fio %s on %s: %w: %s%s", l.mode, on.path, err, complaint.String(), out[:min(len(out), 500)])
	}
	return parseFio(out, l)
}

// parseFio reads fio's JSON, which it may put warnings before.
func parseFio(out []byte, l load) (outcome, error) {
	type direction struct {
		IOPS      float64 `json:"iops"`
		Bandwidth float64 `json:"bw_bytes"`
		Latency   struct {
			Percentile map[string]float64 `json:"percentile"`
		} `json:"clat_ns"`
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
		return outcome{}, fmt.Errorf("fio answered no JSON: %.200s", out)
	}
	if err := json.Unmarshal(out[start:], &result); err != nil {
		return outcome{}, fmt.Errorf("read what fio answered: %w", err)
	}
	if len(result.Jobs) != 1 || result.Jobs[0].Error != 0 {
		return outcome{}, fmt.Errorf("fio ended with an error: %.400s", out[start:])
	}
	d := result.Jobs[0].Write
	if l.reads() {
		d = result.Jobs[0].Read
	}
	if d.IOPS == 0 {
		return outcome{}, fmt.Errorf("fio did nothing: %.400s", out[start:])
	}
	return outcome{perSecond: d.IOPS, bytes: d.Bandwidth, p99: time.Duration(d.Latency.Percentile["99.000000"])}, nil
}
