package sealed

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// DirName is the directory that is encrypted and shown to pods: the root of an ext4
// cannot be.
const DirName = "data"

// The steps of a first publish, in order, at which a test can interrupt it.
const (
	StepKeyMade   = "key made"
	StepDirectory = "directory made"
	StepRecorded  = "recorded"
	StepSealed    = "policy set"
)

// Volume is a staged ext4 volume.
type Volume struct {
	// Staging is where the driver has staged it. Kubelet is kubelet's directory, below
	// which the targets are.
	Staging, Kubelet string
	// Interrupt, if it is set, is asked after each step of a first publish; its error
	// ends it there.
	Interrupt func(step string) error
}

func (v Volume) at(step string) error {
	if v.Interrupt == nil {
		return nil
	}
	return v.Interrupt(step)
}

// Root opens the root of the volume's filesystem, as ioctls want it. The caller closes
// it.
func (v Volume) Root() (*os.File, error) { return os.Open(v.Staging) }

// Publish is what NodePublishVolume would do: it unlocks the volume with what keeper
// gives, sealing it if it is new, and binds its encrypted directory at target. It
// always asks keeper, also if the volume is unlocked already for another pod.
//
// It is volume.ErrDenied if keeper refuses, and volume.ErrPrecondition if what is there
// is not encrypted with the key of the record, volume.ErrDataLoss if the record or the
// directory is gone. Then nothing is bound, and a key that was not there before is taken
// away.
func (v Volume) Publish(ctx context.Context, keeper Keeper, target string) error {
	root, err := v.Root()
	if err != nil {
		return err
	}
	defer root.Close()
	id, before, err := v.unlock(ctx, root, keeper)
	if err != nil {
		return fmt.Errorf("publish %s: %w", v.Staging, err)
	}
	if err := v.show(id, target); err != nil {
		if before == KeyAbsent {
			_, rerr := RemoveKeyOfAll(root, id)
			err = errors.Join(err, rerr)
		}
		return fmt.Errorf("publish %s: %w", v.Staging, err)
	}
	return nil
}

// unlock gives the filesystem its key. before is what the kernel had of it.
func (v Volume) unlock(ctx context.Context, root *os.File, keeper Keeper) (id KeyID, before KeyStatus, err error) {
	names, err := os.OpenRoot(v.Staging)
	if err != nil {
		return KeyID{}, 0, err
	}
	defer names.Close()
	record, ok, err := ReadRecord(names)
	if err != nil {
		return KeyID{}, 0, err
	}
	if !ok {
		return v.unlockNew(ctx, root, names, keeper)
	}
	want, err := ParseKeyID(record.KeyID)
	if err != nil {
		return KeyID{}, 0, fmt.Errorf("%w: %s: %w", volume.ErrDataLoss, RecordName, err)
	}
	if before, err = StatusOf(root, want); err != nil {
		return KeyID{}, 0, err
	}
	text, err := keeper.Unwrap(ctx, record.Wrapped)
	if err != nil {
		return KeyID{}, 0, err
	}
	got, err := addText(root, text.Reveal())
	if err != nil {
		return KeyID{}, 0, err
	}
	if got != want {
		_, err := RemoveKeyOfAll(root, got)
		return KeyID{}, 0, errors.Join(fmt.Errorf("%w: the key is %s, the record names %s", volume.ErrPrecondition, got, want), err)
	}
	return got, before, nil
}

// unlockNew makes a key, the directory, and the record, in this order: a directory that
// has no policy is unfinished, a record without a directory has lost it. The record is
// durable before anything is encrypted: data whose key nobody has are lost.
func (v Volume) unlockNew(ctx context.Context, root *os.File, names *os.Root, keeper Keeper) (KeyID, KeyStatus, error) {
	if err := mustBeNew(names); err != nil {
		return KeyID{}, 0, err
	}
	text, wrapped, err := keeper.New(ctx)
	if err != nil {
		return KeyID{}, 0, err
	}
	id, err := addText(root, text.Reveal())
	if err == nil {
		err = v.at(StepKeyMade)
	}
	if err == nil {
		err = makeDir(names)
	}
	if err == nil {
		err = v.at(StepDirectory)
	}
	if err == nil {
		err = Record{KeyID: id.String(), Wrapped: wrapped}.Write(names)
	}
	if err == nil {
		err = v.at(StepRecorded)
	}
	if err != nil && id != (KeyID{}) {
		_, rerr := RemoveKeyOfAll(root, id)
		err = errors.Join(err, rerr)
	}
	return id, KeyAbsent, err
}

// mustBeNew is volume.ErrDataLoss if the directory of a volume that has no record is
// encrypted: a new record would be in the place of one that may still be found.
func mustBeNew(names *os.Root) error {
	dir, err := names.Open(DirName)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	id, ok, err := PolicyOf(dir)
	if err == nil && ok {
		err = fmt.Errorf("%w: %s is encrypted with key %s, and %s is gone", volume.ErrDataLoss, dir.Name(), id, RecordName)
	}
	return err
}

func addText(root *os.File, text string) (KeyID, error) {
	key, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(key) != KeySize {
		return KeyID{}, fmt.Errorf("%w: a data key of %d bytes, want %d", volume.ErrUnavailable, len(key), KeySize)
	}
	defer clear(key)
	return AddKey(root, key)
}

func makeDir(names *os.Root) error {
	if err := names.Mkdir(DirName, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return nil
}

// show binds the encrypted directory at target, once it is sure that it is that.
func (v Volume) show(id KeyID, target string) error {
	dir, err := v.openSealed(id)
	if err != nil {
		return err
	}
	defer dir.Close()
	tree, err := mount.Bind(dir, false)
	if err != nil {
		return err
	}
	defer tree.Close()
	targets, err := mount.OpenRoot(v.Kubelet)
	if err != nil {
		return err
	}
	defer targets.Close()
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		return err
	}
	at, err := targets.CreateTarget(target, mount.Dir)
	if err != nil {
		return err
	}
	defer at.Close()
	return tree.Attach(at)
}

// openSealed opens the encrypted directory. One that a first publish has left without
// a policy gets it now, which the kernel refuses unless it is empty.
func (v Volume) openSealed(id KeyID) (*os.File, error) {
	names, err := os.OpenRoot(v.Staging)
	if err != nil {
		return nil, err
	}
	defer names.Close()
	dir, err := names.Open(DirName)
	if errors.Is(err, os.ErrNotExist) {
		err = fmt.Errorf("%w: there is %s, and no %s: %w", volume.ErrDataLoss, RecordName, DirName, err)
	}
	if err != nil {
		return nil, err
	}
	if err := v.seal(dir, id); err != nil {
		dir.Close()
		return nil, err
	}
	return dir, nil
}

func (v Volume) seal(dir *os.File, id KeyID) error {
	have, ok, err := PolicyOf(dir)
	if err != nil {
		return err
	}
	if !ok {
		if err := SetPolicy(dir, id); err != nil {
			return fmt.Errorf("%w: %w", volume.ErrPrecondition, err)
		}
		have = id
		if err := errors.Join(dir.Sync(), v.at(StepSealed)); err != nil {
			return err
		}
	}
	look, err := LookAt(dir)
	if err != nil {
		return err
	}
	if have != id || !look.Encrypted {
		return fmt.Errorf("%w: %s is encrypted: %v, with key %s, the record names %s", volume.ErrPrecondition, dir.Name(), look.Encrypted, have, id)
	}
	return nil
}

// Unpublish unmounts a target.
func (v Volume) Unpublish(ctx context.Context, target string) error {
	targets, err := mount.OpenRoot(v.Kubelet)
	if err != nil {
		return err
	}
	defer targets.Close()
	return targets.RemoveTarget(ctx, target)
}

// Lock takes the key away, as the driver would after the last target is unmounted. It
// is volume.ErrInUse while files are open that it unlocked: those stay readable, and
// Lock must be called again.
func (v Volume) Lock() error {
	root, err := v.Root()
	if err != nil {
		return err
	}
	defer root.Close()
	id, err := v.KeyID()
	if err != nil {
		return err
	}
	busy, err := RemoveKeyOfAll(root, id)
	if err == nil && busy {
		err = fmt.Errorf("lock %s: %w: files are open that key %s unlocked", v.Staging, volume.ErrInUse, id)
	}
	return err
}

// KeyID is the name of the key in the record.
func (v Volume) KeyID() (KeyID, error) {
	names, err := os.OpenRoot(v.Staging)
	if err != nil {
		return KeyID{}, err
	}
	defer names.Close()
	record, ok, err := ReadRecord(names)
	if err != nil {
		return KeyID{}, err
	}
	if !ok {
		return KeyID{}, fmt.Errorf("%w: %s has no %s", volume.ErrNotFound, v.Staging, RecordName)
	}
	return ParseKeyID(record.KeyID)
}

// Status is what the kernel has of the key that the record names.
func (v Volume) Status() (KeyStatus, error) {
	root, err := v.Root()
	if err != nil {
		return 0, err
	}
	defer root.Close()
	id, err := v.KeyID()
	if err != nil {
		return 0, err
	}
	return StatusOf(root, id)
}
