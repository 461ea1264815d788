package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// recorded runs a script on a terminal.
func recorded(t *testing.T, script string) *recording {
	t.Helper()
	r := &recording{Title: "a script", Columns: 80, Rows: 24}
	if err := r.record(t.Context(), io.Discard, []string{"/bin/sh", "-c", script}); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestWhatAProgramWritesIsRecorded(t *testing.T) {
	r := recorded(t, `test -t 1 && printf 'one\n\033[1mtwo\033[0m & <three>\n'; sleep 1; printf '\n  \033[32mok\033[0m'`)
	lines, err := r.lines()
	if err != nil {
		t.Fatal(err)
	}
	var got [][]span
	for _, l := range lines {
		got = append(got, l.Spans)
	}
	want := [][]span{{{"", "one"}}, {{"bold", "two"}, {"", " & <three>"}}, nil, {{"", "  "}, {"green", "ok"}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the lines differ (-want +got):\n%s", diff)
	}
	if d := lines[3].After - lines[0].After; d < 500*time.Millisecond {
		t.Errorf("the last line came %s after the first, want about a second", d)
	}

	text, err := r.asciicast()
	if err != nil {
		t.Fatal(err)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	var header struct{ Version, Width, Height int }
	if err := d.Decode(&header); err != nil || header.Version != 2 || header.Width != 80 || header.Height != 24 {
		t.Errorf("the header is %+v, %v", header, err)
	}
	var played strings.Builder
	for d.More() {
		var e []any
		if err := d.Decode(&e); err != nil || len(e) != 3 || e[1] != "o" {
			t.Fatalf("an event is %v: %v", e, err)
		}
		played.WriteString(e[2].(string))
	}
	if want := "one\r\n\x1b[1mtwo\x1b[0m & <three>\r\n\r\n  \x1b[32mok\x1b[0m"; played.String() != want {
		t.Errorf("the cast plays %q, want %q", played.String(), want)
	}

	picture := draw("a script", lines)
	for x := xml.NewDecoder(bytes.NewReader(picture)); ; {
		if _, err := x.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("the picture is no XML: %v\n%s", err, picture)
		}
	}
	for _, want := range []string{"one", `<tspan class="bold">two</tspan> &amp; &lt;three&gt;`, "prefers-color-scheme: dark"} {
		if !strings.Contains(string(picture), want) {
			t.Errorf("the picture lacks %s", want)
		}
	}
}

func TestLongLinesAreBrokenAsOnATerminal(t *testing.T) {
	r := &recording{Columns: 4, Rows: 24}
	if err := r.record(t.Context(), io.Discard, []string{"/bin/sh", "-c", "printf 'abcd\\n12345678\\033[1m9\\n'"}); err != nil {
		t.Fatal(err)
	}
	lines, err := r.lines()
	if err != nil {
		t.Fatal(err)
	}
	var got [][]span
	for _, l := range lines {
		got = append(got, l.Spans)
	}
	want := [][]span{{{"", "abcd"}}, {{"", "1234"}}, {{"", "5678"}}, {{"bold", "9"}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the lines differ (-want +got):\n%s", diff)
	}
}

func TestAProgramThatFailsIsNotRecorded(t *testing.T) {
	r := &recording{Columns: 80, Rows: 24}
	if err := r.record(t.Context(), io.Discard, []string{"/bin/sh", "-c", "echo well; exit 3"}); err == nil {
		t.Error("no error")
	}
}

func TestAProgramThatMovesTheCursorIsRefused(t *testing.T) {
	if _, err := recorded(t, `printf 'one\033[2Ktwo\n'`).lines(); err == nil || !strings.Contains(err.Error(), "no style") {
		t.Errorf("got %v", err)
	}
}
