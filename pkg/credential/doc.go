// Package credential turns the identity of a pod, its service account token, into
// credentials that live for a while: a secret that the pod may read, a certificate, a
// database login, a token of a cloud.
//
// It promises that where tokens are sent is the administrator's alone: addresses,
// certificate authorities, audiences and what a pod may choose are in one file (Load).
// A pod chooses among the sources in it by name, and what to read from one. Nothing is
// read with any right of the driver's own: who asks is the pod, by its token, and the
// service decides.
//
// A request obeys its context and ends after a while of its own; an answer has a limit
// on its size; a redirect is refused. A service that is away is asked less and less
// often, by all volumes of a namespace together (one circuit for each address, which
// stops each namespace for itself), and one that says how long it wants not to be asked
// (Retry-After) is not asked for so long. Every error says which source was asked for what, and has neither the token nor anything
// of an answer but what the service itself calls its error.
//
// It keeps no credential: that is its caller's. It writes no file, logs nothing, and
// does not verify the pod's token (package podtoken says why).
package credential
