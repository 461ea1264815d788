package hostile

import (
	"fmt"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/holdfast-csi/holdfast/pkg/orchestrator"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// hostileFlags are mount flags that would give away the machine or the data.
func hostileFlags() []string {
	return []string{
		"loop", "loop=/dev/loop0", "offset=4096", "sizelimit=4096", "source=/etc/passwd", "bind", "rbind", "move", "remount", "remount,rw", "shared", "rprivate",
		"X-mount.mkdir", "X-mount.mkdir=0777", "X-mount.subdir=../..", "X-mount.owner=0", "X-mount.idmap=/proc/1/ns/user", "x-systemd.requires=evil.service", "x-initrd.mount",
		"norecovery", "noload", "suid", "dev", "nosuid,suid", "nodev,dev", "ro,suid", "SUID", "suid=1", " suid", "suid ", "\tdev",
		"context=system_u:object_r:tmp_t:s0", `context="system_u:object_r:svirt_sandbox_file_t:s0:c1,c2"`, "fscontext=x", "defcontext=x", "rootcontext=x",
		"user", "users", "owner", "group", "helper=/bin/sh", "uhelper=evil", "_netdev", "auto", "nofail", "comment=x", "uid=0", "gid=0", "umask=0", "mode=0777",
		"errors=panic", "errors=continue", "errors=remount-ro,errors=panic", "abort", "debug", "sb=32768", "journal_path=/etc/passwd", "journal_dev=0x700", "journal_ioprio=0",
		"test_dummy_encryption", "inlinecrypt", "init_itable=0", "usrjquota=aquota.user,jqfmt=vfsv0", "quota", "prjquota", "resuid=0", "nobarrier", "barrier=0", "data=", "data=ordered=x",
		"data=journal,loop=/dev/loop0", "commit=0", "commit=-1", "commit=+5", "commit=99999999999999999999", "commit", "dax", "dax=always", "discard", "block_validity",
		"logdev=/dev/loop0", "rtdev=/dev/loop0", "allocsize=0", "logbufs=99", "lowerdir=/,upperdir=/tmp", "fd=3", "size=1g",
		"noatime=1", "ro=", "=ro", "=", "ro;suid", "ro suid", "ro\nsuid", "ro\rsuid", "ro\vsuid", "ro\x00suid", "ro\x1b[2J", "ro\u0085suid", "ro\\054suid", "ro%2Csuid", "-o", "--bind", "-o suid",
		"ro" + notText, strings.Repeat("noatime,", 600), strings.Repeat("x", 4096), strings.Repeat("y", 5<<20),
	}
}

func TestHostileMountFlagsAreRefused(t *testing.T) {
	s := newScene(t)
	s.start()
	for i, flag := range hostileFlags() {
		// Some are legal on the other filesystem.
		var attacks []attack
		for k, kind := range []string{"ext4", "xfs"} {
			spare, witness := *s.spares[k], *s.witnesses[k]
			spare.claim.MountFlags, witness.claim.MountFlags = []string{"noatime", flag}, []string{flag}
			create := spare.claim
			create.Name, create.Size = "attack", 300*volume.MiB
			attacks = append(attacks,
				attack{name: "create " + kind, want: refused, req: create.Request()},
				attack{name: "stage " + kind, want: refused, req: s.stage(&spare).req},
				attack{name: "publish " + kind, want: refused, req: s.publish(&witness).req},
			)
		}
		t.Run(fmt.Sprintf("%d %.20q", i, flag), func(t *testing.T) { s.runAll(t, attacks) })
		if t.Failed() {
			break
		}
	}
	s.end()
}

func TestUnknownFilesystemsAreRefused(t *testing.T) {
	s := newScene(t)
	s.start()
	either := []codes.Code{codes.InvalidArgument, codes.FailedPrecondition}
	for i, fsType := range []volume.FSType{
		"vfat", "btrfs", "ext2", "ext3", "EXT4", "Xfs", " ext4", "ext4 ", "ext4\n", "ext4\x00", "ext4 -F", "ext4,xfs", "-V", "--help", "../ext4", "/bin/sh", "mkfs.ext4", "ext4;reboot", "$(reboot)",
		"tmpfs", "proc", "overlay", "nfs", "fuse.sh", "9p", "auto", "none", "swap", "ext4" + notText, volume.FSType(strings.Repeat("e", 128)), volume.FSType(strings.Repeat("e", 5<<20)),
	} {
		claim := orchestrator.Claim{Name: "attack", Size: 64 * volume.MiB, FSType: fsType}
		spare, witness := *s.spares[0], *s.witnesses[0]
		spare.claim.FSType, witness.claim.FSType = fsType, fsType
		attacks := []attack{
			{name: "create", want: refused, req: claim.Request()},
			{name: "stage", want: either, req: s.stage(&spare).req},
			{name: "publish", want: either, req: s.publish(&witness).req},
			{name: "expand", want: refused, req: &csi.ControllerExpandVolumeRequest{
				VolumeId: witness.id, CapacityRange: &csi.CapacityRange{RequiredBytes: int64(volume.GiB)}, VolumeCapability: witness.claim.Capability(),
			}},
			{name: "expand on the node", want: either, req: &csi.NodeExpandVolumeRequest{VolumeId: witness.id, VolumePath: witness.target, VolumeCapability: witness.claim.Capability()}},
		}
		t.Run(fmt.Sprintf("%d %.20q", i, fsType), func(t *testing.T) { s.runAll(t, attacks) })
		if t.Failed() {
			break
		}
	}
	s.end()
}

func TestHostileParametersAreRefused(t *testing.T) {
	s := newScene(t)
	s.start()
	huge := map[string]string{}
	for i := range 100_000 {
		huge[fmt.Sprint("csi.storage.k8s.io/", i)] = "x"
	}
	var attacks []attack
	for _, p := range []map[string]string{
		{"unknown": "x"}, {"": ""}, {"": "x"}, {"Pool": "default"}, {"pool ": "default"}, {"\x00": "x"}, {notText: "x"}, {"fsType": "ext4"}, {"mkfsOptions": "-F"},
		{"csi.storage.k8s.io": "x"}, {"CSI.storage.k8s.io/pvc/name": "x"}, huge, {"csi.storage.k8s.io/pvc/name": strings.Repeat("x", 5<<20)}, {strings.Repeat("k", 5<<20): "x"},
		{"pool": ""}, {"pool": ".."}, {"pool": "/"}, {"pool": "default/"}, {"pool": "../pools"}, {"pool": "default\x00"}, {"pool": "DEFAULT"}, {"pool": notText}, {"pool": strings.Repeat("x", 4000)},
		{"inodeRatio": ""}, {"inodeRatio": "0"}, {"inodeRatio": "-1"}, {"inodeRatio": "4096 -F"}, {"inodeRatio": "4096\n"}, {"inodeRatio": "+4096"}, {"inodeRatio": "04096"}, {"inodeRatio": "0x1000"},
		{"inodeRatio": "4097"}, {"inodeRatio": "1e6"}, {"inodeRatio": "99999999999999999999"}, {"inodeRatio": "-N 1"}, {"inodeRatio": "--help"}, {"inodeRatio": "$(id)"}, {"inodeRatio": "٤٠٩٦"},
		{"sectorSize": ""}, {"sectorSize": "0"}, {"sectorSize": "1"}, {"sectorSize": "512"}, {"sectorSize": "4096;id"}, {"sectorSize": "4096 "}, {"sectorSize": "-4096"},
	} {
		claim := orchestrator.Claim{Name: "attack", Size: 64 * volume.MiB, Parameters: p}
		attacks = append(attacks, attack{name: fmt.Sprintf("create with %.60q", fmt.Sprint(p)), want: refused, req: claim.Request()})
	}
	mutable := orchestrator.Claim{Name: "attack", Size: 64 * volume.MiB}.Request()
	mutable.MutableParameters = map[string]string{"iops": "1"}
	attacks = append(attacks, attack{name: "create with mutable parameters", want: refused, req: mutable})
	for _, p := range []map[string]string{{"unknown": "x"}, {"consistency": ""}, {"consistency": "none"}, {"consistency": "crash\n"}, {"pool": "default"}, huge} {
		snapshot := s.snap(s.witnesses[0]).req.(*csi.CreateSnapshotRequest)
		snapshot.Parameters = p
		attacks = append(attacks, attack{name: fmt.Sprintf("snapshot with %.60q", fmt.Sprint(p)), want: refused, req: snapshot})
	}
	s.run(t, attacks)
	s.end()
}

func TestAnyTextIsAGoodNameOrIsRefused(t *testing.T) {
	s := newScene(t)
	s.start()
	var attacks []attack
	for _, name := range []string{
		"..", ".", "/", "../../../../etc/passwd", "/etc/passwd", "a/b", "-F", "--help", " ", "a b", "%s%n", "$(id)", "`id`", "';--", `"\`, "日本語", "👾", "\u202egnp.exe", "line\nline", "tab\t", "CON",
		s.witnesses[0].id, ".staging", ".trash/x", "holdfast.json", strings.Repeat("x", 128), strings.Repeat("é", 64),
	} {
		create := s.create(orchestrator.Claim{Size: volume.MiB, Block: true})
		create.req.(*csi.CreateVolumeRequest).Name = name
		create.name, create.want = fmt.Sprintf("create %q", name), fine
		snapshot := s.snap(s.witnesses[2])
		snapshot.req.(*csi.CreateSnapshotRequest).Name = name
		snapshot.name, snapshot.want = fmt.Sprintf("snapshot %q", name), fine
		attacks = append(attacks, create, snapshot)
	}
	for _, name := range []string{"", "\x00", "a\x00b", "\x1b[2J", "\x7f", "\u0085", notText, strings.Repeat("x", 129), strings.Repeat("é", 65), strings.Repeat("x", 5<<20)} {
		attacks = append(attacks,
			attack{name: fmt.Sprintf("create %.20q", name), want: refused, req: orchestrator.Claim{Name: name, Size: volume.MiB, Block: true}.Request()},
			attack{name: fmt.Sprintf("snapshot %.20q", name), want: refused, req: &csi.CreateSnapshotRequest{Name: name, SourceVolumeId: s.witnesses[2].id}},
		)
	}
	s.run(t, attacks)
	s.end()
}
