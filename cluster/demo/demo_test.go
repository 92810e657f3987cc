package demo_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/cairnfs/cairn/cluster/demo"
	"github.com/cairnfs/cairn/cluster/processes"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The demo is the README's first command: it runs here as a person would run it, with real processes.
func TestDemo(t *testing.T) {
	binary, err := processes.Build(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	small := filepath.Join(t.TempDir(), "small")
	if err := os.WriteFile(small, []byte("a small file\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var said bytes.Buffer
	summary, err := demo.Run(ctx, demo.Config{Binary: binary, Files: []string{binary, small}, Out: &said})
	if err != nil {
		t.Fatalf("%v\n%s", err, &said)
	}
	if summary.Found != summary.Acknowledged || summary.Found == 0 || summary.Killed == "" || len(summary.Files) != 2 {
		t.Errorf("%+v", summary)
	}
	for _, f := range summary.Files {
		if f.Copies != 3 {
			t.Errorf("%s has %d copies, want 3", f.Path, f.Copies)
		}
	}
	if !strings.Contains(said.String(), "all checked") {
		t.Errorf("said:\n%s", &said)
	}
}
