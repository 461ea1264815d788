package controller

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// ignoredPrefix starts the keys that Kubernetes' sidecars add for their own
// purposes, such as the name of the claim. They are no part of a volume's
// identity.
const ignoredPrefix = "csi.storage.k8s.io/"

// Parameter describes one key of a StorageClass or VolumeSnapshotClass, for the
// reference documentation.
type Parameter struct {
	Name string
	// Values are what the parameter may be, in words.
	Values string
	// Default is what it is when absent, in words.
	Default string
	// Meaning is one sentence.
	Meaning string
}

// VolumeParameters are all parameters that a StorageClass can have.
func VolumeParameters() []Parameter {
	return []Parameter{
		{
			Name:    "pool",
			Values:  "the name of a pool, as in --pool=NAME=DIR",
			Default: "the pool of the source, else the only pool, else the one named \"default\"",
			Meaning: "The pool in which the volume is made.",
		},
		{
			Name:    "inodeRatio",
			Values:  "default, " + join(volume.InodeRatios),
			Default: "default",
			Meaning: "How many bytes of an ext4 filesystem there are for each inode; \"default\" leaves it to mkfs.ext4.",
		},
		{
			Name:    "sectorSize",
			Values:  join(sectorSizes()),
			Default: "4096",
			Meaning: "The logical sector size in bytes of a raw block volume; 512 is for disk images that need it, and does without direct I/O. A filesystem volume has 4096.",
		},
	}
}

// SnapshotParameters are all parameters that a VolumeSnapshotClass can have.
func SnapshotParameters() []Parameter {
	return []Parameter{
		{
			Name:    "consistency",
			Values:  string(volume.ConsistencyFilesystem) + ", " + string(volume.ConsistencyCrash),
			Default: string(volume.ConsistencyFilesystem),
			Meaning: "What the snapshot of a mounted volume promises: \"filesystem\" freezes the filesystem for an instant, \"crash\" does not and is like a power cut.",
		},
	}
}

func sectorSizes() []int { return []int{512, 4096} }

// class is what the parameters of a StorageClass say.
type class struct {
	pool       string
	inodeRatio int
	sectorSize int
}

// parseVolumeParameters is ErrInvalid for a key or value that is not known.
func parseVolumeParameters(parameters map[string]string) (class, error) {
	var c class
	err := eachParameter(parameters, VolumeParameters(), func(key, value string) (ok bool) {
		switch key {
		case "pool":
			c.pool = value
			return value != ""
		case "inodeRatio":
			if value == "default" {
				return true
			}
			c.inodeRatio, ok = oneOf(value, volume.InodeRatios)
			return ok
		case "sectorSize":
			c.sectorSize, ok = oneOf(value, sectorSizes())
			return ok
		}
		return false
	})
	return c, err
}

// parseSnapshotParameters is ErrInvalid for a key or value that is not known.
func parseSnapshotParameters(parameters map[string]string) (volume.Consistency, error) {
	consistency := volume.ConsistencyFilesystem
	err := eachParameter(parameters, SnapshotParameters(), func(_, value string) bool {
		consistency = volume.Consistency(value)
		return consistency == volume.ConsistencyFilesystem || consistency == volume.ConsistencyCrash
	})
	return consistency, err
}

// eachParameter calls set for each known parameter, in order of name so that
// the same mistake always has the same text.
func eachParameter(parameters map[string]string, known []Parameter, set func(key, value string) bool) error {
	keys := make([]string, 0, len(parameters))
	for key := range parameters {
		if !strings.HasPrefix(key, ignoredPrefix) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	for _, key := range keys {
		i := slices.IndexFunc(known, func(p Parameter) bool { return p.Name == key })
		if i < 0 {
			names := make([]string, len(known))
			for j, p := range known {
				names[j] = p.Name
			}
			return fmt.Errorf("%w: parameter %q is not known: known are %s", volume.ErrInvalid, key, strings.Join(names, ", "))
		}
		if !set(key, parameters[key]) {
			return fmt.Errorf("%w: parameter %s=%q: want %s", volume.ErrInvalid, key, parameters[key], known[i].Values)
		}
	}
	return nil
}

// oneOf reads a number that is written as we would write it.
func oneOf(s string, values []int) (int, bool) {
	for _, v := range values {
		if strconv.Itoa(v) == s {
			return v, true
		}
	}
	return 0, false
}

func join(values []int) string {
	words := make([]string, len(values))
	for i, v := range values {
		words[i] = strconv.Itoa(v)
	}
	return strings.Join(words, ", ")
}
