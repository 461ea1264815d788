package hostile

import (
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// maxRecord is the size in bytes above which a file of the driver's is the data of a
// volume, and none of its records.
const maxRecord = 1 << 20

// records are the names and the content of what the driver has on disk, but for the
// data of volumes.
func (s *scene) records() string {
	s.t.Helper()
	var text strings.Builder
	for _, dir := range []string{s.box.State(), s.box.Pools()} {
		s.must(filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			text.WriteString(path + "\n")
			info, err := d.Info()
			if err != nil || !info.Mode().IsRegular() || info.Size() > maxRecord {
				return err
			}
			content, err := os.ReadFile(path)
			text.Write(content)
			return err
		}))
	}
	if !strings.Contains(text.String(), s.witnesses[0].claim.Name) {
		s.t.Error("the driver's records do not name the witness: this looks in the wrong place")
	}
	return text.String()
}

// kernelTables are what the kernel shows of mounts and loop devices to everybody on
// the machine, and the driver's command line and environment.
func (s *scene) kernelTables() string {
	s.t.Helper()
	var text strings.Builder
	names, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	s.must(err)
	proc := filepath.Join("/proc", strconv.Itoa(s.driver.PID()))
	for _, name := range append(names, "/proc/self/mountinfo", proc+"/cmdline", proc+"/environ") {
		content, err := os.ReadFile(name)
		if err != nil {
			continue // a loop device that was let go of meanwhile
		}
		text.Write(content)
		text.WriteByte('\n')
	}
	return text.String()
}
