package controller

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// tokenVersion starts every pagination token, so that a later version of the
// driver can tell a token that it would misread.
const tokenVersion = "1:"

// page cuts items, which are in order of their id, to those after the token and
// to at most limit (0 means all). next is the token for the rest, "" at the end.
//
// A token holds the last id that was handed out, not a position, so objects that
// come and go between two calls neither hide others nor show them twice, and a
// token survives a restart. It is ErrBadToken for a token that page did not
// make for this kind and ErrInvalid for a negative limit.
func page[T any](items []T, id func(T) volume.ID, kind volume.Kind, token string, limit int32) (part []T, next string, err error) {
	if limit < 0 {
		return nil, "", fmt.Errorf("%w: max_entries is %d: want 0 or more", volume.ErrInvalid, limit)
	}
	if token != "" {
		last, err := parseToken(kind, token)
		if err != nil {
			return nil, "", err
		}
		from, found := slices.BinarySearchFunc(items, last, func(item T, last volume.ID) int {
			return strings.Compare(string(id(item)), string(last))
		})
		if found {
			from++
		}
		items = items[from:]
	}
	if limit == 0 || len(items) <= int(limit) {
		return items, "", nil
	}
	items = items[:limit]
	return items, newToken(id(items[limit-1])), nil
}

func newToken(last volume.ID) string {
	return base64.RawURLEncoding.EncodeToString([]byte(tokenVersion + string(last)))
}

// parseToken accepts exactly what newToken makes for an id of this kind.
func parseToken(kind volume.Kind, token string) (volume.ID, error) {
	bad := fmt.Errorf("%w: start the list again without a token", volume.ErrBadToken)
	if len(token) > base64.RawURLEncoding.EncodedLen(len(tokenVersion)+volume.MaxIDLen) {
		return "", bad
	}
	text, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		return "", bad
	}
	rest, ok := strings.CutPrefix(string(text), tokenVersion)
	if !ok {
		return "", bad
	}
	last, err := volume.ParseID(kind, rest)
	// The decoder skips line breaks and stray bits; a token of ours has neither.
	if err != nil || newToken(last) != token {
		return "", bad
	}
	return last, nil
}
