package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// execute runs a command in the first container of a pod and returns its standard
// output. The error has what it wrote to standard error.
func (s *scene) execute(pod, container string, command ...string) (string, error) {
	ctx, cancel := context.WithTimeout(s.ctx, aWhile)
	defer cancel()
	request := s.kube.CoreV1().RESTClient().Post().Namespace(s.ns).Resource("pods").Name(pod).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Container: container, Command: command, Stdout: true, Stderr: true}, scheme.ParameterCodec)
	channel, err := remotecommand.NewWebSocketExecutor(s.config, "GET", request.URL().String())
	if err != nil {
		return "", err
	}
	var stdout, stderr bytes.Buffer
	if err := channel.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: &stdout, Stderr: &stderr}); err != nil {
		return stdout.String(), fmt.Errorf("run %q in pod %s: %w: %s", command, pod, err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// exec runs a command in the pod. The test ends if it fails.
func (p *pod) exec(command ...string) string {
	p.s.t.Helper()
	out, err := p.s.execute(p.name, mainContainer, command...)
	p.s.must(err)
	return out
}

// dataSize is how much a test writes where it only matters that it is there.
const dataSize = 4 * volume.MiB

func size(b volume.Bytes) string { return strconv.FormatInt(int64(b), 10) }

// write fills the first bytes of a file, or of a block device, with a pattern.
func (p *pod) write(path string, seed int) {
	p.s.t.Helper()
	p.exec(workloadProgram, "write", path, size(dataSize), strconv.Itoa(seed))
}

// verify demands that a file or a device has what write wrote.
func (p *pod) verify(path string, seed int) {
	p.s.t.Helper()
	p.exec(workloadProgram, "verify", path, size(dataSize), strconv.Itoa(seed))
}

// space is the size of the filesystem at a directory, or of a device, as the pod
// sees it.
func (p *pod) space(path string) volume.Bytes {
	p.s.t.Helper()
	n, err := strconv.ParseInt(strings.TrimSpace(p.exec(workloadProgram, "space", path)), 10, 64)
	p.s.must(err)
	return volume.Bytes(n)
}

// progress is what a journal says about itself; see the command workload.
type progress struct {
	File    string        `json:"file"`
	Records uint64        `json:"records"`
	Stall   time.Duration `json:"stall"`
	Longest time.Duration `json:"longest"`
}

// progress asks the journal that this pod writes. It fails the test if the journal
// has ended, which it does at the first I/O error.
func (p *pod) progress() progress {
	p.s.t.Helper()
	var now progress
	p.s.must(json.Unmarshal([]byte(p.exec(workloadProgram, "progress")), &now))
	return now
}

// goesOn demands that the journal of this pod gets n more records.
func (p *pod) goesOn(n uint64) progress {
	p.s.t.Helper()
	start := p.progress()
	for end := time.Now().Add(aWhile); ; time.Sleep(50 * time.Millisecond) {
		now := p.progress()
		if now.Records >= start.Records+n {
			return now
		}
		if time.Now().After(end) {
			p.s.t.Fatalf("the journal of pod %s stands at record %d and did not get %d more in %s", p.name, now.Records, n, aWhile)
		}
	}
}

// journals checks every journal in a directory, and returns how many records each
// has, by file name.
func (p *pod) journals(dir string) map[string]uint64 {
	p.s.t.Helper()
	found := map[string]uint64{}
	p.s.must(json.Unmarshal([]byte(p.exec(workloadProgram, "check", dir)), &found))
	return found
}
