package volume

import "errors"

// The ways in which an operation can fail. An error of any package below
// pkg/rpc wraps at most one of them; pkg/rpc turns the sentinel into the gRPC
// code, in one place. An error without a sentinel is a failure of the machine
// or of the driver (gRPC INTERNAL).
var (
	// ErrInvalid: the request can never work, whatever the state.
	ErrInvalid = errors.New("invalid request")
	// ErrNotFound: the object does not exist.
	ErrNotFound = errors.New("not found")
	// ErrExists: the name is taken by an object with other properties, or the
	// target is in use in a way that contradicts the request.
	ErrExists = errors.New("already exists with other properties")
	// ErrInUse: the object cannot be changed or removed while somebody uses it.
	ErrInUse = errors.New("in use")
	// ErrPrecondition: the state forbids the operation until somebody acts.
	ErrPrecondition = errors.New("precondition failed")
	// ErrNoSpace: the pool cannot promise the space.
	ErrNoSpace = errors.New("no space in pool")
	// ErrOutOfRange: the size is one that this object cannot have.
	ErrOutOfRange = errors.New("size out of range")
	// ErrUnavailable: the pool or a service is away now; the same call may
	// succeed later.
	ErrUnavailable = errors.New("unavailable")
	// ErrBusy: another operation on the same object is running.
	ErrBusy = errors.New("another operation is running")
	// ErrUnauthenticated: who the call is for could not be established: the pod's
	// token is missing, has expired or is another pod's, or nobody accepts it.
	ErrUnauthenticated = errors.New("not authenticated")
	// ErrDenied: it is known who asks, and that may not have it.
	ErrDenied = errors.New("permission denied")
	// ErrBadToken: a pagination token that this driver did not make.
	ErrBadToken = errors.New("bad pagination token")
	// ErrDataLoss: the data is not what the record says it must be. Nothing was
	// changed.
	ErrDataLoss = errors.New("data loss")
)
