package hostile

import (
	"slices"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// attack is one request and what may come of it.
type attack struct {
	name string
	req  proto.Message
	// want are the codes that may be answered.
	want []codes.Code
	// undo takes back what a request that is legal after all did.
	undo func(resp proto.Message)
}

var (
	refused = []codes.Code{codes.InvalidArgument}
	unknown = []codes.Code{codes.NotFound}
	fine    = []codes.Code{codes.OK}
)

// run makes the attacks, each on a box that is as it was before.
func (s *scene) run(t *testing.T, attacks []attack) {
	t.Helper()
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			resp, code := s.call(a.req)
			if !slices.Contains(a.want, code) {
				t.Errorf("%T answered %s, want %v: %s", a.req, code, a.want, s.last)
			}
			if a.undo != nil && code == codes.OK {
				a.undo(resp)
			}
			demandUnchanged(t, s.box, s.before, a.name)
		})
		if t.Failed() {
			t.Log(s.driver.Log())
			return // what follows would be about a box that is not as it was
		}
	}
}

// call sends a request and remembers what was said.
func (s *scene) call(req proto.Message) (proto.Message, codes.Code) {
	resp, err := s.wire.call(req)
	s.hear(err)
	return resp, status.Code(err)
}

func (s *scene) hear(err error) {
	s.last = status.Convert(err).Message()
	s.said.WriteString(s.last + "\n")
}

// mustCall is for the requests with which an attack is set up or taken back.
func (s *scene) mustCall(req proto.Message) proto.Message {
	s.t.Helper()
	resp, code := s.call(req)
	if code != codes.OK {
		s.t.Fatalf("%T answered %s: %s", req, code, s.last)
	}
	return resp
}
