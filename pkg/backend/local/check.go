package local

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/command"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// Checking says what Check looks at.
type Checking struct {
	StateDir string
	// Pool is the name of the one to look at; "" means all.
	Pool   string
	Runner command.Runner
	// Filesystems asks for a look through the filesystems of volumes that nobody
	// uses, Snapshots for those of snapshots too.
	Filesystems, Snapshots bool
}

// PoolCheck is what driver pool check found in a pool.
type PoolCheck struct {
	Name string        `json:"name"`
	ID   volume.PoolID `json:"id"`
	Dir  string        `json:"dir"`
	// Volumes and Snapshots are how many records and images were compared,
	// Filesystems how many filesystems were looked through, InUse how many were not,
	// because they are attached.
	Volumes     int       `json:"volumes"`
	Snapshots   int       `json:"snapshots"`
	Filesystems int       `json:"filesystems"`
	InUse       int       `json:"inUse"`
	Findings    []Finding `json:"findings"`
}

// Finding is one thing that Check found.
type Finding struct {
	// Severity is problem or note.
	Severity string `json:"severity"`
	// Object is the id of a volume or a snapshot, or a path in the pool; "" is the
	// pool itself.
	Object string `json:"object"`
	// What is what was found, Do what to do about it.
	What string `json:"what"`
	Do   string `json:"do"`
}

// The severities of findings.
const (
	severityProblem = "problem"
	severityNote    = "note"
)

func (c *PoolCheck) problem(object, what, do string) {
	c.Findings = append(c.Findings, Finding{severityProblem, object, what, do})
}

func (c *PoolCheck) note(object, what, do string) {
	c.Findings = append(c.Findings, Finding{severityNote, object, what, do})
}

// Problems counts the findings that are more than notes.
func (c *PoolCheck) Problems() int {
	n := 0
	for _, f := range c.Findings {
		if f.Severity == severityProblem {
			n++
		}
	}
	return n
}

// Check compares what the registered pools have with what they should, while a
// driver may be using them. It changes nothing that belongs to anybody: filesystems
// are looked through in copies of their own that share all blocks and go
// afterwards.
func Check(ctx context.Context, what Checking) ([]PoolCheck, error) {
	state, err := os.OpenRoot(what.StateDir)
	if err != nil {
		return nil, fmt.Errorf("open the state directory: %w", err)
	}
	defer state.Close()
	b := &Backend{cfg: Config{Overcommit: 1, Runner: what.Runner, Notice: func(Reason, string) {}}, state: state}
	regs, unreadable := registrations(state)
	var out []PoolCheck
	for _, r := range regs {
		if what.Pool != "" && r.Name != what.Pool {
			continue
		}
		c := PoolCheck{Name: r.Name, ID: r.PoolID, Dir: r.Dir, Findings: []Finding{}}
		if err := b.check(ctx, r, what, &c); err != nil {
			return nil, fmt.Errorf("check pool %s: %w", r.Name, err)
		}
		out = append(out, c)
	}
	if what.Pool != "" && len(out) == 0 && unreadable == nil {
		return nil, fmt.Errorf("%w: no pool %s is registered in %s", volume.ErrNotFound, what.Pool, what.StateDir)
	}
	return out, unreadable
}

func (b *Backend) check(ctx context.Context, r registration, what Checking, c *PoolCheck) error {
	if err := b.checkGround(r, c); err != nil {
		return err
	}
	p, err := b.openRegistered(r)
	if err != nil {
		c.problem("", fmt.Sprintf("it cannot be used: %v", err), "connect or mount its disk; if it is gone for good, remove its registration from the state directory")
		return nil
	}
	return errors.Join(p.check(ctx, what, c), p.close())
}

func (p *pool) check(ctx context.Context, what Checking, c *PoolCheck) error {
	served, err := p.isServed()
	if err != nil {
		return err
	}
	if err := p.checkRecords(ctx, c); err != nil {
		return err
	}
	if err := p.checkLeftovers(served, c); err != nil {
		return err
	}
	if err := p.checkLoops(c); err != nil {
		return err
	}
	if err := p.checkIntents(c); err != nil {
		return err
	}
	if !what.Filesystems {
		return nil
	}
	return p.checkFilesystems(ctx, what.Snapshots, c)
}

// isServed says whether a driver uses the pool.
func (p *pool) isServed() (bool, error) {
	f, err := p.root.Open(lockFile)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("open %s: %w", lockFile, err)
	}
	defer f.Close() // and with it the lock, before a driver that starts can miss it twice
	err = unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("lock %s: %w", lockFile, err)
	}
	return false, nil
}
