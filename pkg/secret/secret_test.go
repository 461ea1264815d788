package secret

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

const canary = "correct-horse-battery-staple"

// everywhere is a value with a Text in every place that a value can have.
type everywhere struct {
	Exported Text
	hidden   Text
	Pointer  *Text
	pointer  *Text
	List     []Text
	list     []Text
	Map      map[string]Text
	hiddens  map[string]Text
	Any      any
	inner    struct{ deep Text }
	Sum      Sum
	sum      Sum
}

func newEverywhere() everywhere {
	t := New(canary)
	e := everywhere{
		Exported: t, hidden: t, Pointer: &t, pointer: &t, List: []Text{t}, list: []Text{t},
		Map: map[string]Text{"k": t}, hiddens: map[string]Text{"k": t}, Any: t, Sum: t.Sum(), sum: t.Sum(),
	}
	e.inner.deep = t
	return e
}

// leaks says whether a text has the secret or its sum in it, as it is or in one of the
// forms in which fmt and encoders write bytes.
func leaks(text string) bool {
	sum := sha256.Sum256([]byte(canary))
	for _, bytes := range [][]byte{[]byte(canary), sum[:]} {
		decimals := strings.Trim(fmt.Sprint(bytes), "[]")
		for _, form := range []string{
			string(bytes), fmt.Sprintf("%x", bytes), fmt.Sprintf("%X", bytes), fmt.Sprintf("% x", bytes), fmt.Sprintf("%#v", bytes),
			decimals, strings.ReplaceAll(decimals, " ", ","), strings.ReplaceAll(decimals, " ", ", "), base64.StdEncoding.EncodeToString(bytes),
		} {
			if strings.Contains(strings.Join(strings.Fields(text), " "), form) {
				return true
			}
		}
	}
	// As YAML writes a list.
	return strings.Contains(text, fmt.Sprintf("- %d\n- %d\n- %d\n", sum[0], sum[1], sum[2]))
}

func TestNoVerbOfFmtShowsIt(t *testing.T) {
	e := newEverywhere()
	var verbs []string
	for c := 'A'; c <= 'z'; c++ {
		for _, flags := range []string{"", "+", "#", "-", " ", "0", "+#", "8.3", "200"} {
			verbs = append(verbs, "%"+flags+string(c))
		}
	}
	for _, verb := range verbs {
		for _, v := range []any{e.Exported, &e.Exported, e, &e, []any{e, &e}, map[string]any{"e": e}, e.Sum, &e.Sum} {
			if text := fmt.Sprintf(verb, v); leaks(text) {
				t.Errorf("%s of %T shows the secret: %s", verb, v, text)
			}
		}
	}
	if got := fmt.Sprint(e.Exported); got != Mark {
		t.Errorf("got %q", got)
	}
}

func TestNoEncodingShowsIt(t *testing.T) {
	e := newEverywhere()
	encode := map[string]func() (string, error){
		"json": func() (string, error) { b, err := json.Marshal(e); return string(b), err },
		"yaml": func() (string, error) { b, err := yaml.Marshal(e); return string(b), err },
		"xml":  func() (string, error) { b, err := xml.Marshal(e.List); return string(b), err },
		"json of a sum": func() (string, error) {
			b, err := json.Marshal([]any{e.Sum, &e.Sum, map[string]Sum{"k": e.Sum}})
			return string(b), err
		},
		"yaml of a sum": func() (string, error) { b, err := yaml.Marshal(e.Sum); return string(b), err },
		"xml of a sum":  func() (string, error) { b, err := xml.Marshal(e.Sum); return string(b), err },
		"slog text": func() (string, error) {
			return logged(func(b *bytes.Buffer) slog.Handler { return slog.NewTextHandler(b, nil) }, e), nil
		},
		"slog json": func() (string, error) {
			return logged(func(b *bytes.Buffer) slog.Handler { return slog.NewJSONHandler(b, nil) }, e), nil
		},
	}
	for name, f := range encode {
		text, err := f()
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if leaks(text) {
			t.Errorf("%s shows the secret: %s", name, text)
		}
		if !strings.Contains(text, Mark) {
			t.Errorf("%s does not say that something is there: %s", name, text)
		}
	}
}

func logged(handler func(*bytes.Buffer) slog.Handler, e everywhere) string {
	var b bytes.Buffer
	slog.New(handler(&b)).Info("message", "text", e.Exported, "pointer", e.Pointer, "struct", e, "group", slog.GroupValue(slog.Any("in", e.Exported)), "sum", e.Sum)
	return b.String()
}

func TestAPanicAndAnErrorDoNotShowIt(t *testing.T) {
	defer func() {
		if text := fmt.Sprint(recover()); leaks(text) {
			t.Errorf("the panic shows it: %s", text)
		}
	}()
	err := fmt.Errorf("log in with %v: %w", New(canary), errors.New(New(canary).String()))
	if leaks(err.Error()) {
		t.Errorf("the error shows it: %v", err)
	}
	panic(newEverywhere())
}

func TestTextsAreComparedByWhatTheyAre(t *testing.T) {
	a, b := New(canary), New(canary)
	if !a.Equal(b) || a.Sum() != b.Sum() || a.Equal(New("x")) || a.Sum() == New("x").Sum() {
		t.Error("comparison is wrong")
	}
	if a.Reveal() != canary || a.Len() != len(canary) || a.IsEmpty() {
		t.Error("the text is not what it was")
	}
	var zero Text
	if (Sum{}) == zero.Sum() {
		t.Error("no text has the sum of the empty one")
	}
	if !zero.IsEmpty() || zero.Reveal() != "" || !zero.Equal(New("")) || fmt.Sprint(zero) != Mark {
		t.Error("the zero value is not the empty text")
	}
}
