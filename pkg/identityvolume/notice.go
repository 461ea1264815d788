package identityvolume

// Reason says in one word what a notice is about: the reason of a Kubernetes event.
// docs/reference/events.md says what to do about each.
type Reason string

// The reasons, all of them about one volume of one pod.
const (
	// RefreshFailed: what the pod asked for could not be read again.
	RefreshFailed Reason = "CredentialRefreshFailed"
	// Refreshed: it can be read again, after it could not.
	Refreshed Reason = "CredentialRefreshed"
	// Expired: files are left that are worth nothing any more (policy keep).
	Expired Reason = "CredentialExpired"
	// Fenced: files were emptied (policy fence).
	Fenced Reason = "CredentialFenced"
	// RevokeFailed: a lease of a volume that is gone could not be ended.
	RevokeFailed Reason = "CredentialRevokeFailed"
	// WipeFailed: files of a volume that is gone could not be overwritten.
	WipeFailed Reason = "CredentialWipeFailed"
	// Remounted: somebody had unmounted a volume.
	Remounted Reason = "CredentialRemounted"
)

// Reasons are all reasons.
func Reasons() []Reason {
	return []Reason{RefreshFailed, Refreshed, Expired, Fenced, RevokeFailed, WipeFailed, Remounted}
}

// Warning says whether something is wrong.
func (r Reason) Warning() bool { return r != Refreshed }
