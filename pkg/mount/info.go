package mount

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
)

// Info is one line of /proc/thread-self/mountinfo (man 5 proc).
type Info struct {
	ID, Parent int
	// Major and Minor are the device number that stat(2) shows below the mount.
	Major, Minor uint32
	// Root is the directory, or file, of the filesystem that is mounted here.
	Root string
	// Path is where it is mounted.
	Path   string
	FSType string
	Source string
	// Options are those of this mount, SuperOptions those of the filesystem.
	Options, SuperOptions []string
	// PeerGroup is the number of the peer group that a shared mount is in, 0 for
	// one that is not shared. Master is the peer group that a slave mount gets its
	// mounts from, else 0.
	PeerGroup, Master int
}

// ReadOnly reports whether nothing can be written through this mount: because
// the mount or the whole filesystem is read-only.
func (i Info) ReadOnly() bool {
	return slices.Contains(i.Options, "ro") || slices.Contains(i.SuperOptions, "ro") || i.Failed() != ""
}

// Failed names the state in which a filesystem refuses to write after an error,
// although its options may still say "rw": "emergency_ro" or "shutdown". It is ""
// for a healthy one, for every XFS, and for an ext4 on a kernel that does not show
// it (before 6.15). filesystem.Alive sees an XFS that shut itself down.
func (i Info) Failed() string {
	for _, o := range i.SuperOptions {
		if o == "emergency_ro" || o == "shutdown" {
			return o
		}
	}
	return ""
}

// List is every mount of this mount namespace, in the kernel's order.
func List() ([]Info, error) {
	// One read of the whole file is as close to one instant as the kernel offers.
	text, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	return parse(bytes.NewReader(text))
}

func parse(r io.Reader) ([]Info, error) {
	lines, err := mountinfo.GetMountsFromReader(r, nil)
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	infos := make([]Info, 0, len(lines))
	for _, l := range lines {
		infos = append(infos, Info{
			ID:           l.ID,
			Parent:       l.Parent,
			Major:        uint32(l.Major),
			Minor:        uint32(l.Minor),
			Root:         l.Root,
			Path:         l.Mountpoint,
			FSType:       l.FSType,
			Source:       l.Source,
			Options:      options(l.Options),
			SuperOptions: options(l.VFSOptions),
			PeerGroup:    group(l.Optional, "shared:"),
			Master:       group(l.Optional, "master:"),
		})
	}
	return infos, nil
}

// group reads one of the optional fields, such as "shared:12".
func group(fields, name string) int {
	for field := range strings.FieldsSeq(fields) {
		if digits, ok := strings.CutPrefix(field, name); ok {
			n, err := strconv.Atoi(digits)
			if err == nil {
				return n
			}
		}
	}
	return 0
}

func options(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}

// OfDevice selects the mounts of the filesystem on this block device, bind mounts
// of parts of it included.
func OfDevice(infos []Info, major, minor uint32) []Info {
	var found []Info
	for _, i := range infos {
		if i.Major == major && i.Minor == minor {
			found = append(found, i)
		}
	}
	return found
}

// At selects the mounts at exactly this path, as Root.Resolve writes it, from the
// bottom layer to the top one, which is the one that is seen.
func At(infos []Info, path string) []Info {
	var layers []Info
	for _, i := range infos {
		if i.Path == path {
			layers = append(layers, i)
		}
	}
	// A layer's parent is the layer below it. The kernel's order is that of
	// mounting, except for mounts that were put below others.
	for done := range layers {
		for next := done; next < len(layers); next++ {
			if !isParent(layers[done:], layers[next].Parent, next-done) {
				layers[done], layers[next] = layers[next], layers[done]
				break
			}
		}
	}
	return layers
}

// isParent reports whether one of the layers other than the one at self has this
// ID: then the one at self is not the lowest.
func isParent(layers []Info, id, self int) bool {
	for i, l := range layers {
		if i != self && l.ID == id {
			return true
		}
	}
	return false
}
