package volume

import (
	"errors"
	"math"
	"strings"
	"testing"
)

const pool PoolID = "0123456789abcdef"

func TestNewIDIsParsedBack(t *testing.T) {
	for _, kind := range []Kind{KindVolume, KindSnapshot} {
		for _, name := range []string{"pvc-1", "", "../../etc", strings.Repeat("x", 5<<20), "\x00\xff"} {
			id := NewID(kind, pool, name)
			got, err := ParseID(kind, string(id))
			if err != nil || got != id || got.Pool() != pool || got.Kind() != kind || got.Hash() != HashName(name) {
				t.Errorf("%q: %v, %v", id, got, err)
			}
			if len(id) > MaxIDLen {
				t.Errorf("id %q has %d bytes", id, len(id))
			}
		}
	}
}

func TestParseIDRefusesWhatNewIDCannotMake(t *testing.T) {
	good := string(NewID(KindVolume, pool, "a"))
	for _, s := range []string{
		"", ".", "..", "vol", "vol..", good + ".", "." + good, good + "/..", "../" + good, strings.ToUpper(good),
		strings.Replace(good, "vol.", "snap.", 1), strings.Replace(good, "vol.", "VOL.", 1), good[:len(good)-1], good + "0",
		strings.Repeat("a", 5<<20), good + "\x00", "vol.0123456789abcdeg." + HashName("a"), " " + good,
	} {
		if id, err := ParseID(KindVolume, s); !errors.Is(err, ErrNotFound) {
			t.Errorf("%.60q: %q, %v", s, id, err)
		}
	}
}

func FuzzParseID(f *testing.F) {
	f.Add(string(NewID(KindVolume, pool, "a")))
	f.Add("vol.../../..")
	f.Add("snap.0123456789abcdef.")
	f.Fuzz(func(t *testing.T, s string) {
		id, err := ParseID(KindVolume, s)
		if err != nil {
			if id != "" || !errors.Is(err, ErrNotFound) {
				t.Fatalf("%q with %v", id, err)
			}
			return
		}
		if string(id) != s || strings.ContainsAny(s, "/\x00 ") || len(s) > MaxIDLen || s[0] == '.' || strings.Contains(s, "..") {
			t.Fatalf("accepted %q", s)
		}
		if _, err := ParsePoolID(string(id.Pool())); err != nil {
			t.Fatal(err)
		}
	})
}

func TestPoolIDs(t *testing.T) {
	a, b := NewPoolID(), NewPoolID()
	if a == b {
		t.Error("two pools have one id")
	}
	if _, err := ParsePoolID(string(a)); err != nil {
		t.Error(err)
	}
	if _, err := ParsePoolID("../../../../etc/"); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
}

func TestBytesReadAsPeopleWriteThem(t *testing.T) {
	for b, want := range map[Bytes]string{
		0: "0 B", KiB: "1 KiB", 300 * MiB: "300 MiB", 3 * GiB / 2: "1.5 GiB", 10 * GiB: "10 GiB", TiB: "1 TiB", 1000: "1000 B",
	} {
		if got := b.String(); got != want {
			t.Errorf("%d: %q, want %q", int64(b), got, want)
		}
	}
}

func TestParseBytes(t *testing.T) {
	for s, want := range map[string]Bytes{"0": 0, "4096": 4096, "20Gi": 20 * GiB, "1Ti": TiB, "300Mi": 300 * MiB, "7Ki": 7 * KiB} {
		if got, err := ParseBytes(s); err != nil || got != want {
			t.Errorf("%q: %d, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "Gi", "-1Gi", "1.5Gi", "20GB", "20G", "1e3", "9223372036854775807Gi", "0x10", " 1", "1 Gi"} {
		if got, err := ParseBytes(s); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %d, %v", s, got, err)
		}
	}
}

func FuzzParseBytes(f *testing.F) {
	f.Add("20Gi")
	f.Add("9999999Ti")
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := ParseBytes(s); err == nil && n < 0 {
			t.Fatalf("%q is %d", s, n)
		}
	})
}

func TestRoundUpNeverOverflows(t *testing.T) {
	for _, b := range []Bytes{0, 1, 4095, 4096, 4097, math.MaxInt64, math.MaxInt64 - 4095} {
		got := b.RoundUp(4096)
		if got%4096 != 0 || got < 0 || (b < math.MaxInt64-8192 && got < b) {
			t.Errorf("%d rounds to %d", b, got)
		}
	}
}

func TestFit(t *testing.T) {
	for _, c := range []struct {
		required, limit, floor, want Bytes
		err                          error
	}{
		{required: GiB, want: GiB},
		{want: DefaultSize},
		{limit: 64 * MiB, floor: 16 * MiB, want: 64 * MiB},
		{required: 1, floor: 300 * MiB, want: 300 * MiB},
		{required: 1, limit: 299 * MiB, floor: 300 * MiB, err: ErrOutOfRange},
		{required: GiB + 1, want: GiB + Alignment},
		{required: GiB + 1, limit: GiB + 1, err: ErrOutOfRange},
		{required: -1, err: ErrInvalid},
		{required: 2, limit: 1, err: ErrInvalid},
		{required: MaxSize + 1, err: ErrOutOfRange},
		{required: math.MaxInt64, err: ErrOutOfRange},
	} {
		got, err := Fit(c.required, c.limit, c.floor)
		if got != c.want || !errors.Is(err, c.err) {
			t.Errorf("%+v: %d, %v", c, got, err)
		}
	}
}

func TestResolve(t *testing.T) {
	ext4 := Format{Mode: ModeFilesystem, FSType: Ext4, SectorSize: 4096}
	tuned := Format{Mode: ModeFilesystem, FSType: Ext4, SectorSize: 4096, InodeRatio: 4096}
	block := Format{Mode: ModeBlock, SectorSize: 512}
	for name, c := range map[string]struct {
		ask    Format
		source *Format
		want   Format
		err    error
	}{
		"the default is ext4":            {ask: Format{Mode: ModeFilesystem}, want: ext4},
		"block":                          {ask: Format{Mode: ModeBlock}, want: Format{Mode: ModeBlock, SectorSize: 4096}},
		"block with small sectors":       {ask: block, want: block},
		"a copy inherits":                {ask: Format{Mode: ModeFilesystem}, source: &tuned, want: tuned},
		"a copy inherits sectors":        {ask: Format{Mode: ModeBlock}, source: &block, want: block},
		"a copy cannot change its type":  {ask: Format{Mode: ModeFilesystem, FSType: XFS}, source: &ext4, err: ErrInvalid},
		"a copy cannot change its mode":  {ask: Format{Mode: ModeBlock}, source: &ext4, err: ErrInvalid},
		"a copy cannot change its ratio": {ask: Format{Mode: ModeFilesystem, InodeRatio: 8192}, source: &tuned, err: ErrInvalid},
		"no such filesystem":             {ask: Format{Mode: ModeFilesystem, FSType: "vfat"}, err: ErrInvalid},
		"small sectors need block":       {ask: Format{Mode: ModeFilesystem, SectorSize: 512}, err: ErrInvalid},
		"odd sectors":                    {ask: Format{Mode: ModeBlock, SectorSize: 520}, err: ErrInvalid},
		"a ratio is for ext4":            {ask: Format{Mode: ModeFilesystem, FSType: XFS, InodeRatio: 4096}, err: ErrInvalid},
		"an odd ratio":                   {ask: Format{Mode: ModeFilesystem, InodeRatio: 5000}, err: ErrInvalid},
		"no mode":                        {err: ErrInvalid},
		"a filesystem on block":          {ask: Format{Mode: ModeBlock, FSType: Ext4}, err: ErrInvalid},
	} {
		got, err := c.ask.Resolve(c.source)
		if !errors.Is(err, c.err) || err == nil && got != c.want {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestMatchesNamesTheFirstDifference(t *testing.T) {
	v := Volume{Size: GiB, Format: Format{Mode: ModeFilesystem, FSType: Ext4, SectorSize: 4096}}
	ok := Spec{Name: "a", Size: GiB, Format: Format{Mode: ModeFilesystem}}
	if err := v.Matches(ok); err != nil {
		t.Error(err)
	}
	for what, change := range map[string]func(*Spec){
		"source": func(s *Spec) { s.Source.Volume = "vol.x" },
		"size":   func(s *Spec) { s.Size = 2 * GiB },
		"limit":  func(s *Spec) { s.Size, s.Limit = 1, MiB },
		"format": func(s *Spec) { s.Format.FSType = XFS },
	} {
		spec := ok
		change(&spec)
		if err := v.Matches(spec); !errors.Is(err, ErrExists) {
			t.Errorf("%s: %v", what, err)
		}
	}
	snap := Snapshot{Source: "vol.x", Consistency: ConsistencyCrash}
	if err := snap.Matches(SnapshotSpec{Source: "vol.y", Consistency: ConsistencyCrash}); !errors.Is(err, ErrExists) {
		t.Error(err)
	}
	if err := snap.Matches(SnapshotSpec{Source: "vol.x", Consistency: ConsistencyFilesystem}); !errors.Is(err, ErrExists) {
		t.Error(err)
	}
}
