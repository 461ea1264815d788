package backendtest

import (
	"testing"

	"github.com/holdfast-csi/holdfast/pkg/backend"
	"github.com/holdfast-csi/holdfast/pkg/fault"
)

// Engine is an engine under test with what the suite needs around it. Only
// Provisioner and Leftovers are required; what is nil is not tested, and the
// suite says so.
type Engine struct {
	backend.Provisioner
	// Attacher attaches the volumes of the Provisioner on this machine.
	Attacher backend.Attacher
	// Content reads and writes volumes: DeviceContent for real devices.
	Content Content
	// Reopen closes the engine and opens it again on the same storage, as a
	// restart of the driver does: the device of a block volume stays attached.
	// The engine it was called on is not used any more.
	Reopen func() (Engine, error)
	// Leftovers is what the storage and the machine hold that no object explains,
	// one line each: files under construction, the trash, loops, mounts, frozen
	// filesystems. If the engine cleans up after it has answered, Leftovers waits
	// for that. The device of an attached volume is no leftover.
	Leftovers func() []string
	// Unavailable takes a pool away until restore is called.
	Unavailable func(pool string) (restore func(), err error)
}

// NewEngine makes an engine with empty pools of at least 4 GiB and calls hook
// with each step of the engine that changes something. The suite calls it once
// per scenario. What must be cleaned up is registered with t.Cleanup.
type NewEngine func(t testing.TB, hook fault.Hook) Engine

// Engine is Memory as the suite needs it.
func (m *Memory) Engine() Engine {
	return Engine{
		Provisioner: m,
		Attacher:    m,
		Content:     m,
		Reopen: func() (Engine, error) {
			m.Restart()
			return m.Engine(), nil
		},
		Leftovers: m.Leftovers,
		Unavailable: func(pool string) (func(), error) {
			m.Unavailable(pool)
			return func() { m.Available(pool) }, nil
		},
	}
}
