package volume

import "fmt"

// InodeRatios are the values of Format.InodeRatio that a caller may ask for, in
// bytes per inode.
var InodeRatios = []int{4096, 8192, 16384, 32768, 65536, 131072, 1048576}

// Resolve fills what a request left open: from the source's format if there is
// one, else with the defaults (ext4, 4096-byte sectors). A request that
// contradicts the source, or asks for what does not exist, is ErrInvalid.
func (f Format) Resolve(source *Format) (Format, error) {
	def := Format{Mode: f.Mode, SectorSize: 4096}
	if f.Mode == ModeFilesystem {
		def.FSType = Ext4
	}
	if source != nil {
		if f.Mode != source.Mode {
			return Format{}, fmt.Errorf("%w: the source is a %s volume, it cannot become a %s volume", ErrInvalid, source.Mode, f.Mode)
		}
		def = *source
	}
	out := f
	if out.FSType == "" {
		out.FSType = def.FSType
	}
	if out.SectorSize == 0 {
		out.SectorSize = def.SectorSize
	}
	if out.InodeRatio == 0 && out.FSType == def.FSType {
		out.InodeRatio = def.InodeRatio
	}
	if source != nil && out != *source {
		return Format{}, fmt.Errorf("%w: the source has %s, a copy of it cannot have %s: use a class that agrees with the source", ErrInvalid, source, out)
	}
	return out, out.validate(source != nil)
}

// validate: a filesystem that was made for 512-byte sectors exists only where it was
// imported. It is inherited, never asked for.
func (f Format) validate(inherited bool) error {
	switch f.Mode {
	case ModeFilesystem:
		if f.FSType != Ext4 && f.FSType != XFS {
			return fmt.Errorf("%w: filesystem type %q: supported are %s and %s", ErrInvalid, f.FSType, Ext4, XFS)
		}
		if f.SectorSize != 4096 && !(inherited && f.SectorSize == 512) {
			return fmt.Errorf("%w: sector size %d: a filesystem volume has 4096; 512 is for block volumes", ErrInvalid, f.SectorSize)
		}
	case ModeBlock:
		if f.FSType != "" {
			return fmt.Errorf("%w: a block volume has no filesystem, %q was asked for", ErrInvalid, f.FSType)
		}
		if f.SectorSize != 4096 && f.SectorSize != 512 {
			return fmt.Errorf("%w: sector size %d: supported are 4096 and 512", ErrInvalid, f.SectorSize)
		}
	default:
		return fmt.Errorf("%w: volume mode %q: supported are %s and %s", ErrInvalid, f.Mode, ModeFilesystem, ModeBlock)
	}
	return f.validateInodeRatio()
}

func (f Format) validateInodeRatio() error {
	if f.InodeRatio == 0 {
		return nil
	}
	if f.FSType != Ext4 {
		return fmt.Errorf("%w: an inode ratio is for ext4, not for %s", ErrInvalid, f)
	}
	for _, r := range InodeRatios {
		if f.InodeRatio == r {
			return nil
		}
	}
	return fmt.Errorf("%w: inode ratio %d: supported are %v bytes per inode", ErrInvalid, f.InodeRatio, InodeRatios)
}

// String describes a format for an error message: "ext4", "a raw block device
// with 512-byte sectors".
func (f Format) String() string {
	if f.Mode == ModeBlock {
		return fmt.Sprintf("a raw block device with %d-byte sectors", f.SectorSize)
	}
	if f.InodeRatio != 0 {
		return fmt.Sprintf("%s with %d bytes per inode", f.FSType, f.InodeRatio)
	}
	return string(f.FSType)
}

// Matches says whether v is what spec asks for, so that the call that made v may
// be repeated: nil, or ErrExists with the first difference. It does not compare
// pools.
func (v Volume) Matches(spec Spec) error {
	differs := func(what string, have, want any) error {
		return fmt.Errorf("%w: volume %q exists with %s %v, asked for %v", ErrExists, spec.Name, what, have, want)
	}
	if v.Source != spec.Source {
		return differs("source", v.Source, spec.Source)
	}
	if f, err := spec.Format.Resolve(&v.Format); err != nil || f != v.Format {
		return differs("format", v.Format, spec.Format)
	}
	if v.Size < spec.Size {
		return differs("size", v.Size, "at least "+spec.Size.String())
	}
	if spec.Limit > 0 && v.Size > spec.Limit {
		return differs("size", v.Size, "at most "+spec.Limit.String())
	}
	return nil
}

// Matches says whether s is what spec asks for: nil, or ErrExists.
func (s Snapshot) Matches(spec SnapshotSpec) error {
	if s.Source != spec.Source {
		return fmt.Errorf("%w: snapshot %q exists of volume %s, asked for one of %s", ErrExists, spec.Name, s.Source, spec.Source)
	}
	if s.Consistency != spec.Consistency {
		return fmt.Errorf("%w: snapshot %q exists with consistency %q, asked for %q", ErrExists, spec.Name, s.Consistency, spec.Consistency)
	}
	return nil
}
