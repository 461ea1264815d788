package controller

import (
	"errors"
	"slices"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func ids(n int) []volume.ID {
	var out []volume.ID
	for i := range n {
		out = append(out, volume.NewID(volume.KindVolume, fastID, strconv.Itoa(i)))
	}
	slices.Sort(out)
	return out
}

func self(id volume.ID) volume.ID { return id }

func TestPagesOfEverySizeMakeTheWholeList(t *testing.T) {
	all := ids(23)
	for limit := int32(0); limit < 25; limit++ {
		var got []volume.ID
		token := ""
		for {
			part, next, err := page(all, self, volume.KindVolume, token, limit)
			if err != nil {
				t.Fatal(err)
			}
			if limit > 0 && len(part) > int(limit) {
				t.Fatalf("a page of %d, the limit is %d", len(part), limit)
			}
			got = append(got, part...)
			if token = next; token == "" {
				break
			}
		}
		if diff := cmp.Diff(all, got); diff != "" {
			t.Errorf("limit %d:\n%s", limit, diff)
		}
	}
}

func TestAPageThatEndsTheListHasNoToken(t *testing.T) {
	if _, next, _ := page(ids(3), self, volume.KindVolume, "", 3); next != "" {
		t.Errorf("got the token %q for nothing", next)
	}
}

func TestATokenOfAnotherKindIsRefused(t *testing.T) {
	token := newToken(volume.NewID(volume.KindSnapshot, fastID, "s"))
	if _, _, err := page(ids(3), self, volume.KindVolume, token, 0); !errors.Is(err, volume.ErrBadToken) {
		t.Errorf("got %v, want ErrBadToken", err)
	}
}

func FuzzToken(f *testing.F) {
	good := newToken(volume.NewID(volume.KindVolume, fastID, "v"))
	for _, s := range []string{"", "0", "1", "invalid-token", good, good + "\n", good[:len(good)-1], good + "=", "../../etc", "MTo", string(make([]byte, 1000))} {
		f.Add(s)
	}
	all := ids(5)
	f.Fuzz(func(t *testing.T, token string) {
		last, err := parseToken(volume.KindVolume, token)
		if err != nil {
			if !errors.Is(err, volume.ErrBadToken) {
				t.Fatalf("token %q: %v is not ErrBadToken", token, err)
			}
			return
		}
		if newToken(last) != token {
			t.Fatalf("token %q was accepted and is not what we make for %s", token, last)
		}
		if _, _, err := page(all, self, volume.KindVolume, token, 2); err != nil {
			t.Fatal(err)
		}
	})
}
