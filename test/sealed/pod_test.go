package sealed

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// podEnv says, if it is set, that this program is a pod's process that takes a key
// away: the key's name, and as which users.
const podEnv = "HOLDFAST_SEALED_POD"

// podProcess is a pod of root, as the kernel sees its process.
type podProcess struct {
	// capabilities are those that it has, as setpriv(1) names them.
	capabilities []string
	// ownUsers says that it has a user namespace, as with hostUsers: false.
	ownUsers bool
	// as are the users that it tries, one after the other.
	as []int
}

// takeKey removes a key through a directory of a mount that the pod has. It returns
// what the process said.
func (p podProcess) takeKey(dir *os.File, id KeyID) (string, error) {
	// Users of another namespace cannot reach this program by its path.
	program, err := os.Open("/proc/self/exe")
	if err != nil {
		return "", err
	}
	defer program.Close()
	capabilities := "-all"
	for _, c := range p.capabilities {
		capabilities += ",+" + c
	}
	cmd := exec.Command("setpriv", "--no-new-privs", "--inh-caps=-all", "--ambient-caps=-all", "--bounding-set="+capabilities, "/proc/self/fd/4")
	text := id.String()
	for _, user := range p.as {
		text += " " + strconv.Itoa(user)
	}
	cmd.Env = []string{podEnv + "=" + text}
	cmd.ExtraFiles = []*os.File{dir, program}
	if p.ownUsers {
		users := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 1 << 20, Size: 1 << 16}}
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags: syscall.CLONE_NEWUSER, UidMappings: users, GidMappings: users, GidMappingsEnableSetgroups: true,
			Credential: &syscall.Credential{}, // root, of the new namespace
		}
	}
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// takeKeyHere is what takeKey starts.
func takeKeyHere(text string) error {
	runtime.LockOSThread()
	fields := strings.Fields(text)
	id, err := ParseKeyID(fields[0])
	if err != nil {
		return err
	}
	dir := os.NewFile(3, "the pod's volume")
	for _, field := range fields[1:] {
		user, err := strconv.Atoi(field)
		if err != nil {
			return err
		}
		// It returns who the user was, also if that does not change.
		_, _ = unix.SetfsuidRetUid(user)
		is, err := unix.SetfsuidRetUid(-1)
		if err != nil {
			return err
		}
		_, _, rerr := RemoveKey(dir, id)
		_, aerr := RemoveKeyOfAll(dir, id)
		fmt.Printf("as user %d (wanted %d): %v; of all users: %v\n", is, user, rerr, aerr)
		if !errors.Is(aerr, unix.EACCES) {
			return fmt.Errorf("remove the key of all users: %w", aerr)
		}
	}
	return nil
}
