package sealed

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// KeySize is the length of a master key in bytes: the longest that fscrypt takes.
const KeySize = unix.FSCRYPT_MAX_KEY_SIZE

// KeyID is the name that the kernel derives from a master key: the same key has the
// same name on every filesystem, and nothing of the key can be told from it.
type KeyID [unix.FSCRYPT_KEY_IDENTIFIER_SIZE]byte

// String is the name in hexadecimal digits.
func (id KeyID) String() string { return hex.EncodeToString(id[:]) }

// ParseKeyID reads what String wrote.
func ParseKeyID(text string) (KeyID, error) {
	var id KeyID
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != len(id) {
		return id, fmt.Errorf("key identifier %q: want %d hexadecimal digits", text, 2*len(id))
	}
	copy(id[:], b)
	return id, nil
}

// AddKey gives a key to the mounted filesystem of root, any directory of it, and
// returns its name. The kernel takes any key, right or wrong. It keeps the key for as
// long as the filesystem is mounted anywhere, for the user (fsuid) who added it
// (Documentation/filesystems/fscrypt.rst, FS_IOC_ADD_ENCRYPTION_KEY).
func AddKey(root *os.File, key []byte) (KeyID, error) {
	var request struct {
		unix.FscryptAddKeyArg
		raw [KeySize]byte
	}
	if len(key) > len(request.raw) {
		return KeyID{}, fmt.Errorf("add a key of %d bytes: the longest has %d", len(key), len(request.raw))
	}
	request.Key_spec.Type = unix.FSCRYPT_KEY_SPEC_TYPE_IDENTIFIER
	request.Raw_size = uint32(copy(request.raw[:], key))
	defer clear(request.raw[:])
	if err := ioctl(root, unix.FS_IOC_ADD_ENCRYPTION_KEY, unsafe.Pointer(&request)); err != nil {
		return KeyID{}, fmt.Errorf("add a key to the filesystem at %s: %w", root.Name(), err)
	}
	return KeyID(request.Key_spec.U[:len(KeyID{})]), nil
}

// RemoveKey takes the key of the calling user away from a filesystem. busy says that
// files are open which the key unlocked: those stay readable, and a later call is
// needed. others says that another user has added the key too, so it is still there.
// A key that is not there is success.
func RemoveKey(root *os.File, id KeyID) (busy, others bool, err error) {
	return removeKey(root, id, unix.FS_IOC_REMOVE_ENCRYPTION_KEY)
}

// RemoveKeyOfAll is RemoveKey for all users who have added it. It needs
// CAP_SYS_ADMIN.
func RemoveKeyOfAll(root *os.File, id KeyID) (busy bool, err error) {
	busy, _, err = removeKey(root, id, unix.FS_IOC_REMOVE_ENCRYPTION_KEY_ALL_USERS)
	return busy, err
}

func removeKey(root *os.File, id KeyID, request uintptr) (busy, others bool, err error) {
	arg := unix.FscryptRemoveKeyArg{Key_spec: specOf(id)}
	err = ioctl(root, request, unsafe.Pointer(&arg))
	if err != nil && !errors.Is(err, unix.ENOKEY) {
		return false, false, fmt.Errorf("remove key %s from the filesystem at %s: %w", id, root.Name(), err)
	}
	return arg.Removal_status_flags&unix.FSCRYPT_KEY_REMOVAL_STATUS_FLAG_FILES_BUSY != 0,
		arg.Removal_status_flags&unix.FSCRYPT_KEY_REMOVAL_STATUS_FLAG_OTHER_USERS != 0, nil
}

// KeyStatus is what the kernel says of a key.
type KeyStatus uint32

// The states of a key. One that is IncompletelyRemoved still unlocks the files that
// are open.
const (
	KeyAbsent              KeyStatus = unix.FSCRYPT_KEY_STATUS_ABSENT
	KeyPresent             KeyStatus = unix.FSCRYPT_KEY_STATUS_PRESENT
	KeyIncompletelyRemoved KeyStatus = unix.FSCRYPT_KEY_STATUS_INCOMPLETELY_REMOVED
)

func (s KeyStatus) String() string {
	switch s {
	case KeyAbsent:
		return "absent"
	case KeyPresent:
		return "present"
	case KeyIncompletelyRemoved:
		return "incompletely removed"
	}
	return fmt.Sprintf("status %d", uint32(s))
}

// StatusOf says whether a filesystem has a key.
func StatusOf(root *os.File, id KeyID) (KeyStatus, error) {
	arg := unix.FscryptGetKeyStatusArg{Key_spec: specOf(id)}
	if err := ioctl(root, unix.FS_IOC_GET_ENCRYPTION_KEY_STATUS, unsafe.Pointer(&arg)); err != nil {
		return 0, fmt.Errorf("ask for key %s at %s: %w", id, root.Name(), err)
	}
	return KeyStatus(arg.Status), nil
}

func specOf(id KeyID) unix.FscryptKeySpecifier {
	spec := unix.FscryptKeySpecifier{Type: unix.FSCRYPT_KEY_SPEC_TYPE_IDENTIFIER}
	copy(spec.U[:], id[:])
	return spec
}

// SetPolicy makes an empty directory one in which everything is encrypted with a key
// that the filesystem has: AES-256-XTS for contents, AES-256-CTS for names, a key of
// its own for each file. One that has the same policy already is success.
func SetPolicy(dir *os.File, id KeyID) error {
	policy := unix.FscryptPolicyV2{
		Version:                   unix.FSCRYPT_POLICY_V2,
		Contents_encryption_mode:  unix.FSCRYPT_MODE_AES_256_XTS,
		Filenames_encryption_mode: unix.FSCRYPT_MODE_AES_256_CTS,
		Flags:                     unix.FSCRYPT_POLICY_FLAGS_PAD_32,
		Master_key_identifier:     id,
	}
	if err := ioctl(dir, unix.FS_IOC_SET_ENCRYPTION_POLICY, unsafe.Pointer(&policy)); err != nil {
		return fmt.Errorf("encrypt %s with key %s: %w", dir.Name(), id, err)
	}
	return nil
}

// PolicyOf is the name of the key with which a directory or file is encrypted. It
// needs no key. ok is false for one that is not encrypted.
func PolicyOf(f *os.File) (id KeyID, ok bool, err error) {
	// struct fscrypt_get_policy_ex_arg, with the version first in its union.
	arg := unix.FscryptGetPolicyExArg{Size: uint64(unsafe.Sizeof(unix.FscryptPolicyV2{}))}
	switch err := ioctl(f, unix.FS_IOC_GET_ENCRYPTION_POLICY_EX, unsafe.Pointer(&arg)); {
	case errors.Is(err, unix.ENODATA):
		return KeyID{}, false, nil
	case err != nil:
		return KeyID{}, false, fmt.Errorf("ask how %s is encrypted: %w", f.Name(), err)
	}
	policy := (*unix.FscryptPolicyV2)(unsafe.Pointer(&arg.Policy))
	if policy.Version != unix.FSCRYPT_POLICY_V2 {
		return KeyID{}, false, fmt.Errorf("%s is encrypted with a policy of version %d, want 2", f.Name(), policy.Version)
	}
	return policy.Master_key_identifier, true, nil
}

// Look is what statx(2) says of a file.
type Look struct {
	Encrypted bool
	// DirectAlign is the alignment that direct I/O needs, in bytes; 0 says that the
	// file cannot do any, and that O_DIRECT goes through the page cache.
	DirectAlign uint32
}

// LookAt asks statx(2).
func LookAt(f *os.File) (Look, error) {
	var st unix.Statx_t
	if err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_BASIC_STATS|unix.STATX_DIOALIGN, &st); err != nil {
		return Look{}, fmt.Errorf("statx %s: %w", f.Name(), err)
	}
	return Look{Encrypted: st.Attributes&unix.STATX_ATTR_ENCRYPTED != 0, DirectAlign: st.Dio_offset_align}, nil
}

// How a filesystem is shut down.
const (
	// ShutdownFlushed writes out everything first.
	ShutdownFlushed uint32 = 0
	// ShutdownAtOnce writes nothing, not even its journal: as a power cut.
	ShutdownAtOnce uint32 = 2
)

// Shutdown ends a mounted ext4 for everybody: every call from now on is an error,
// until it is unmounted everywhere and mounted again. It needs CAP_SYS_ADMIN
// (EXT4_IOC_SHUTDOWN, fs/ext4/ioctl.c).
func Shutdown(root *os.File, how uint32) error {
	const goingDown = 0x8004587d // _IOR('X', 125, __u32)
	if err := ioctl(root, goingDown, unsafe.Pointer(&how)); err != nil {
		return fmt.Errorf("shut down the filesystem at %s: %w", root.Name(), err)
	}
	return nil
}

func ioctl(f *os.File, request uintptr, argument unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(argument)); errno != 0 {
		return errno
	}
	return nil
}
