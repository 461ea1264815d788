package filesystem

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"

	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// maxMountFlags is the most that the flags of one volume may have together, in
// bytes (CSI spec, VolumeCapability.MountVolume.mount_flags).
const maxMountFlags = 4096

// Options is what a user's mount flags mean.
type Options struct {
	// Super are options of the filesystem; the first mount of it on the machine
	// decides them for all.
	Super []mount.Option
	// Attr are properties of one mount.
	Attr mount.Attr
	// ReadOnly is that "ro" was asked for.
	ReadOnly bool
}

// ParseMountFlags reads mount flags of a user, each of which may be a list with
// commas, against what is allowed for the filesystem. Of contradicting flags the
// last one holds, as in mount(8). nosuid and nodev are always in force and may be
// given; an XFS always gets nouuid, because a clone has its source's UUID.
//
// Anything that is not in the list is volume.ErrInvalid, with the reason where
// there is one, and what is allowed.
func ParseMountFlags(t volume.FSType, flags []string) (Options, error) {
	allowed, err := allowedFlags(t)
	if err != nil {
		return Options{}, err
	}
	total := 0
	for _, f := range flags {
		total += len(f)
	}
	if total > maxMountFlags {
		return Options{}, fmt.Errorf("%w: mount options of %d bytes, the limit is %d", volume.ErrInvalid, total, maxMountFlags)
	}
	var options Options
	if t == volume.XFS {
		options.set(allowed, mount.Option{Key: "nouuid"})
	}
	for _, list := range flags {
		for flag := range strings.SplitSeq(list, ",") {
			if err := options.add(t, allowed, flag); err != nil {
				return Options{}, err
			}
		}
	}
	return options, nil
}

func (o *Options) add(t volume.FSType, allowed map[string]rule, flag string) error {
	flag = strings.TrimSpace(flag)
	if flag == "" {
		return nil
	}
	// Values are sensitive (CSI spec, MountVolume.mount_flags): no error shows one.
	key, value, hasValue := strings.Cut(flag, "=")
	r, ok := allowed[key]
	if !ok {
		return refuse(t, allowed, key)
	}
	if r.values == nil {
		if hasValue {
			return fmt.Errorf("%w: mount option %q takes no value", volume.ErrInvalid, key)
		}
	} else if why := r.values(value); why != "" {
		return fmt.Errorf("%w: mount option %q: %s", volume.ErrInvalid, key, why)
	}
	if r.attr != nil {
		o.Attr = r.attr(o.Attr)
		return nil
	}
	switch key {
	case "ro":
		o.ReadOnly = true
	case "rw":
		o.ReadOnly = false
	}
	if r.group != "" {
		o.set(allowed, mount.Option{Key: key, Value: value})
	}
	return nil
}

// set puts an option at the end, in place of those that it contradicts.
func (o *Options) set(allowed map[string]rule, option mount.Option) {
	o.Super = slices.DeleteFunc(o.Super, func(have mount.Option) bool {
		return allowed[have.Key].group == allowed[option.Key].group
	})
	o.Super = append(o.Super, option)
}

// refuse is why an option is not allowed, by its name alone.
func refuse(t volume.FSType, allowed map[string]rule, key string) error {
	shown := strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return unicode.ReplacementChar
		}
		return r
	}, key)
	if len(shown) > 100 {
		shown = strings.ToValidUTF8(shown[:100], "") + "..."
	}
	why := ""
	if reason := refusal(key); reason != "" {
		why = " (" + reason + ")"
	}
	names := slices.Sorted(maps.Keys(allowed))
	return fmt.Errorf("%w: mount option %q is not allowed on %s%s: allowed are %s", volume.ErrInvalid, shown, t, why, strings.Join(names, ", "))
}
