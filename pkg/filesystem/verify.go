package filesystem

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/holdfast-csi/holdfast/pkg/command"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// ErrUnknownFeatures is that of a filesystem that is newer than the programs that are
// to look through it.
var ErrUnknownFeatures = errors.New("unknown filesystem features")

// Verify looks through a filesystem that nobody uses, in an image file or on a
// device, and changes nothing: e2fsck -n or xfs_repair -n. fault is what is wrong
// with it in the program's words, "" if it is sound. It is volume.ErrPrecondition
// if its log has not been replayed since it was last used: what is wrong with it
// cannot be told before that. It is ErrUnknownFeatures if the program is too old for
// it. When ctx ends the program is killed.
func Verify(ctx context.Context, runner command.Runner, path string, t volume.FSType) (fault string, err error) {
	switch t {
	case volume.Ext4:
		return verifyExt4(ctx, runner, path)
	case volume.XFS:
		return verifyXFS(ctx, runner, path)
	}
	return "", fmt.Errorf("%w: supported are %s and %s", volume.ErrInvalid, volume.Ext4, volume.XFS)
}

func verifyExt4(ctx context.Context, runner command.Runner, path string) (string, error) {
	out, err := runner.Run(ctx, "e2fsck", "-f", "-n", "--", path)
	switch status := exitStatus(err); {
	case status < 0: // it did not run to its end
	case strings.Contains(string(out), "skipping journal recovery"):
		return "", unreplayed(path)
	case status == 0:
		return "", nil
	case status&fsckUncorrected != 0:
		return oneLine(out), nil
	}
	return "", fmt.Errorf("check the ext4 filesystem in %s: %w", path, err)
}

func verifyXFS(ctx context.Context, runner command.Runner, path string) (string, error) {
	argv := []string{"xfs_repair", "-n", "-f", path}
	out, err := runner.Run(ctx, argv...)
	said := string(out)
	var failure *command.Error
	if errors.As(err, &failure) {
		said += failure.Stderr // where it says most of it
	}
	const damaged = 1
	switch status := exitStatus(err); {
	case strings.Contains(said, "valuable metadata changes in a log"):
		return "", unreplayed(path)
	case status == 0:
		return "", nil
	case strings.Contains(said, "more recent xfs_repair"), strings.Contains(said, "unsupported filesystem features"):
		return "", fmt.Errorf("%w: the xfs in %s has features that xfs_repair here does not know, so nothing can be said of it: a newer xfsprogs is needed: %s", ErrUnknownFeatures, path, oneLine([]byte(withoutProgress(said))))
	case status == damaged:
		return oneLine([]byte(withoutProgress(said))), nil
	}
	return "", fmt.Errorf("check the xfs filesystem in %s: %w", path, err)
}

// withoutProgress leaves out the lines of xfs_repair that only say how far it is.
func withoutProgress(said string) string {
	var kept []string
	for line := range strings.Lines(said) {
		words := strings.TrimSpace(line)
		if !strings.HasPrefix(words, "- ") && !strings.HasPrefix(words, "Phase ") && !strings.HasPrefix(words, "No modify") {
			kept = append(kept, words)
		}
	}
	return strings.Join(kept, "\n")
}

func unreplayed(path string) error {
	return fmt.Errorf("%w: the log of the filesystem in %s has not been replayed since it was last used", volume.ErrPrecondition, path)
}

// ReplayExt4 replays the journal of an ext4 filesystem in a file or on a device and
// does nothing else. XFS does that when it is mounted.
func ReplayExt4(ctx context.Context, runner command.Runner, path string) error {
	out, err := runner.Run(ctx, "e2fsck", "-p", "-E", "journal_only", "--", path)
	if status := exitStatus(err); status < 0 || status >= fsckUncorrected {
		return fmt.Errorf("replay the journal of the ext4 filesystem in %s (e2fsck said: %s): %w", path, oneLine(out), err)
	}
	return nil
}
