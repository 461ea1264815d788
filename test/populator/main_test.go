package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestPopulateWritesTheFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "hello.txt")
	if err := run(t.Context(), []string{"--mode=populate", "--file-name=" + file, "--file-contents=Hello, world"}); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(file)
	if err != nil || string(got) != "Hello, world" {
		t.Errorf("the file has %q, %v", got, err)
	}
}

func TestUnknownModeIsRefused(t *testing.T) {
	if err := run(t.Context(), []string{"--mode=other"}); err == nil {
		t.Error("it runs")
	}
}
