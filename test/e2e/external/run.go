package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/test/cluster"
	"github.com/holdfast-csi/holdfast/test/figures"
)

// The files in the directory of a run.
const (
	junitFile   = "junit_01.xml" // the name is upstream's
	logFile     = "log.txt"
	machineFile = "machine.md"
	countFile   = "summary"
)

// external starts a regular expression that matches the tests of drivers like ours.
const external = `External.Storage.*`

// options are the flags of run.
type options struct {
	focus, skip, selection string
	fsType, binding, out   string
	procs, stress          int
	timeout                time.Duration
	ssh                    bool
}

func run(ctx context.Context, args []string) (err error) {
	var o options
	flags := flag.NewFlagSet("external run", flag.ContinueOnError)
	flags.StringVar(&o.focus, "focus", "", "a regular expression; the storage tests that it matches run")
	flags.StringVar(&o.skip, "skip", "", "a regular expression; the tests that it matches do not run")
	flags.StringVar(&o.selection, "selection", "", "a file with a regular expression a line, instead of -focus")
	flags.StringVar(&o.fsType, "fstype", "xfs", "the filesystem where a test does not choose: xfs or ext4")
	flags.StringVar(&o.binding, "binding", "WaitForFirstConsumer", "when a volume is made where a test does not choose: WaitForFirstConsumer or Immediate")
	flags.StringVar(&o.out, "out", "dist/external", "the directory for the results")
	flags.IntVar(&o.procs, "procs", 2*runtime.NumCPU(), "how many tests run at a time")
	flags.IntVar(&o.stress, "stress", 10, "how many pods the stress tests have and how often they restart each; half as many pods with as many snapshots of each")
	flags.BoolVar(&o.ssh, "ssh", false, "let tests log in to the node and stop kubelet: those that are called disruptive need it")
	flags.DurationVar(&o.timeout, "timeout", 6*time.Hour, "how long all of it may take")
	if err := flags.Parse(args); err != nil {
		return err
	}
	focus := []string{o.focus}
	if o.selection != "" {
		if focus, err = readSelection(o.selection); err != nil {
			return err
		}
	}
	c, err := cluster.Open()
	if err != nil {
		return err
	}
	suite, err := c.PrepareSuite(ctx, os.Stdout)
	if err != nil {
		return err
	}
	if err := prepareOut(o.out); err != nil {
		return err
	}
	definition, err := writeDefinition(ctx, c, suite, o)
	if err != nil {
		return err
	}
	var environment []string
	if o.ssh {
		server, err := startNodeSSH(ctx)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, server.stop()) }()
		environment = server.environment()
	}
	began := time.Now()
	ran := runGinkgo(ctx, c, suite, definition, focus, environment, o)
	if err := describe(suite, o, time.Since(began)); err != nil {
		return err
	}
	result, err := readResult(o.out)
	if err != nil {
		return errors.Join(ran, err)
	}
	result.tell(os.Stdout)
	if err := os.WriteFile(filepath.Join(o.out, countFile), []byte(result.line()+"\n"), 0o644); err != nil {
		return err
	}
	if ran == nil && len(result.having(passed)) == 0 {
		return errors.New("no test ran: the regular expressions match none that this driver can run")
	}
	return ran
}

// readSelection reads regular expressions, one a line. Empty lines and those that
// start with # are for people.
func readSelection(file string) ([]string, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var lines []string
	for line := range strings.Lines(string(data)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			lines = append(lines, line)
		}
	}
	if len(lines) == 0 {
		return nil, fmt.Errorf("%s selects nothing", file)
	}
	return lines, nil
}

// prepareOut makes the directory, without the results of an earlier run.
func prepareOut(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, name := range []string{junitFile, logFile, machineFile, countFile} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// runGinkgo runs the tests and writes what they say to standard output and to the
// log.
func runGinkgo(ctx context.Context, c *cluster.Cluster, suite cluster.Suite, definition string, focus, environment []string, o options) error {
	log, err := os.Create(filepath.Join(o.out, logFile))
	if err != nil {
		return err
	}
	defer log.Close()
	reports, err := filepath.Abs(o.out)
	if err != nil {
		return err
	}
	kubeconfig, kubectl := c.Kubeconfig()
	args := []string{fmt.Sprintf("--procs=%d", o.procs), "--timeout=" + o.timeout.String(), "--no-color"}
	// The same suites are there for drivers of upstream's own.
	args = append(args, "--focus="+external+"(?:"+strings.Join(focus, "|")+")")
	if o.skip != "" {
		args = append(args, "--skip="+o.skip)
	}
	args = append(args, suite.Program, "--",
		"--kubeconfig="+kubeconfig, "--kubectl-path="+kubectl, "--provider=local", "--storage.testdriver="+definition,
		"--repo-root="+suite.Source, "--report-dir="+reports, "--e2e-output-dir="+reports)
	cmd := exec.CommandContext(ctx, suite.Ginkgo, args...)
	cmd.Stdout, cmd.Stderr = io.MultiWriter(os.Stdout, log), io.MultiWriter(os.Stderr, log)
	cmd.Env = append(os.Environ(), environment...)
	// At the first it ends the tests that run, which clean up, and writes its report.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
	cmd.WaitDelay = 5 * time.Minute
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("run upstream's tests: %w; what they said is in %s", err, log.Name())
	}
	return nil
}

// describe writes what a run was and what it ran on, for the page.
func describe(suite cluster.Suite, o options, took time.Duration) error {
	pools, err := mount.Containing(cluster.PoolsDir)
	if err != nil {
		return err
	}
	var p figures.Page
	p.Machine()
	what := "all of External.Storage"
	if o.focus != "" {
		what = "`" + o.focus + "` of External.Storage"
	}
	if o.selection != "" {
		what = "the selection `" + filepath.Base(o.selection) + "`"
	}
	if o.skip != "" {
		what += ", without `" + o.skip + "`"
	}
	p.Line("* tests: those of Kubernetes %s, %s; %d at a time; %s and %s where a test does not choose", suite.Version, what, o.procs, o.fsType, o.binding)
	p.Line("* on: Kubernetes %s of one node, a pool image on %s, [driver.yaml](../../test/e2e/external/driver.yaml)", suite.Version, pools.FSType)
	p.Line("* stress: %d pods, each started %d times; %d pods, %d snapshots of each", o.stress, o.stress, (o.stress+1)/2, o.stress)
	p.Line("* took: %s", took.Round(time.Second))
	return os.WriteFile(filepath.Join(o.out, machineFile), p.Bytes(), 0o644)
}
