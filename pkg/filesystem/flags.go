package filesystem

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// rule says what an allowed mount flag means. One with neither attr nor group asks
// for what is so anyway, or is handled by its name.
type rule struct {
	// attr changes the properties of the mount.
	attr func(mount.Attr) mount.Attr
	// group is shared by the options of the filesystem of which only one can hold.
	group string
	// values says why a value is wrong, "" if it is right; nil means that there is
	// none.
	values func(string) string
}

// allowedFlags are the mount flags that a user may give. What is missing either
// endangers data or the machine (refusal says why), or nobody has needed it.
func allowedFlags(t volume.FSType) (map[string]rule, error) {
	allowed := map[string]rule{
		"defaults": {}, "ro": {}, "rw": {}, "nosuid": {}, "nodev": {}, "nodiscard": {},

		"exec":        {attr: unset(mount.AttrNoExec)},
		"noexec":      {attr: set(mount.AttrNoExec)},
		"relatime":    {attr: accessTime(0)},
		"noatime":     {attr: accessTime(mount.AttrNoAtime)},
		"strictatime": {attr: accessTime(mount.AttrStrictAtime)},
		"diratime":    {attr: unset(mount.AttrNoDirAtime)},
		"nodiratime":  {attr: set(mount.AttrNoDirAtime)},

		"sync":       {group: "sync"},
		"async":      {group: "sync"},
		"dirsync":    {group: "dirsync"},
		"lazytime":   {group: "lazytime"},
		"nolazytime": {group: "lazytime"},
	}
	switch t {
	case volume.Ext4:
		maps.Copy(allowed, ext4Flags())
	case volume.XFS:
		maps.Copy(allowed, xfsFlags())
	default:
		return nil, fmt.Errorf("%w: filesystem type %q: supported are %s and %s", volume.ErrInvalid, t, volume.Ext4, volume.XFS)
	}
	return allowed, nil
}

// ext4Flags are of Documentation/admin-guide/ext4.rst.
func ext4Flags() map[string]rule {
	return map[string]rule{
		"data":             {group: "data", values: oneOf("journal", "ordered", "writeback")},
		"commit":           {group: "commit", values: number(1, 300)},
		"errors":           {group: "errors", values: oneOf("remount-ro")},
		"delalloc":         {group: "delalloc"},
		"nodelalloc":       {group: "delalloc"},
		"auto_da_alloc":    {group: "auto_da_alloc"},
		"noauto_da_alloc":  {group: "auto_da_alloc"},
		"journal_checksum": {group: "journal_checksum"},
	}
}

// xfsFlags are of Documentation/admin-guide/xfs.rst.
func xfsFlags() map[string]rule {
	return map[string]rule{
		"nouuid":      {group: "nouuid"},
		"inode64":     {group: "inode64"},
		"noquota":     {group: "noquota"},
		"wsync":       {group: "wsync"},
		"largeio":     {group: "largeio"},
		"nolargeio":   {group: "largeio"},
		"swalloc":     {group: "swalloc"},
		"filestreams": {group: "filestreams"},
		"logbufs":     {group: "logbufs", values: number(2, 8)},
		"logbsize":    {group: "logbsize", values: oneOf("32k", "64k", "128k", "256k")},
		"allocsize":   {group: "allocsize", values: oneOf("64k", "128k", "256k", "512k", "1m", "4m", "16m", "64m", "256m", "1g")},
	}
}

// refusal is why an option is not allowed, for those that people ask for.
func refusal(key string) string {
	switch key {
	case "discard":
		return "it makes every delete wait for the pool; run fstrim instead"
	case "norecovery", "noload":
		return "it shows the filesystem without its journal, so files are missing or torn"
	case "barrier", "nobarrier":
		return "without barriers a power cut destroys the filesystem; they are always on"
	case "suid", "dev":
		return "volumes never bring set-uid programs or devices with them"
	case "loop", "offset", "sizelimit", "encryption":
		return "the driver attaches the device"
	case "context", "fscontext", "defcontext", "rootcontext":
		return "SELinux contexts are not supported yet"
	case "remount", "bind", "rbind", "move", "shared", "rshared", "slave", "rslave", "private", "rprivate":
		return "it is an order to mount(8), not an option of a filesystem"
	case "usrquota", "grpquota", "prjquota", "uquota", "gquota", "pquota", "quota":
		return "the size of the volume is its quota"
	}
	if strings.HasPrefix(key, "X-") || strings.HasPrefix(key, "x-") {
		return "it is for programs that this driver does not run"
	}
	return ""
}

func set(a mount.Attr) func(mount.Attr) mount.Attr {
	return func(have mount.Attr) mount.Attr { return have | a }
}

func unset(a mount.Attr) func(mount.Attr) mount.Attr {
	return func(have mount.Attr) mount.Attr { return have &^ a }
}

// accessTime replaces what was said before about access times.
func accessTime(a mount.Attr) func(mount.Attr) mount.Attr {
	return func(have mount.Attr) mount.Attr {
		return have&^(mount.AttrNoAtime|mount.AttrStrictAtime) | a
	}
}

func oneOf(values ...string) func(string) string {
	return func(v string) string {
		if slices.Contains(values, v) {
			return ""
		}
		return "want one of " + strings.Join(values, ", ")
	}
}

func number(least, most int) func(string) string {
	return func(v string) string {
		n, err := strconv.Atoi(v)
		if err != nil || n < least || n > most || strconv.Itoa(n) != v {
			return fmt.Sprintf("want a number from %d to %d", least, most)
		}
		return ""
	}
}
