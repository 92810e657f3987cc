package chaos_test

import (
	"context"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/cairnfs/cairn/cluster/chaos"
	"github.com/cairnfs/cairn/cluster/processes"
)

var (
	duration = flag.Duration("chaos.duration", 10*time.Second, "how long the load of each run lasts")
	seed     = flag.Uint64("chaos.seed", 1, "who is struck and when")
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// One chunkserver at a time is killed while producers append and readers read: nobody notices, nothing is lost.
func TestChunkserversAreKilled(t *testing.T) {
	report := runChaos(t, chaos.Config{Chunkservers: 5, Producers: 8, Readers: 2, RecordBytes: 100})
	if len(report.Faults) == 0 {
		t.Error("nobody was struck")
	}
}

func runChaos(t *testing.T, cfg chaos.Config) chaos.Report {
	t.Helper()
	binary, err := processes.Build(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), *duration+2*time.Minute)
	defer cancel()
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	cfg.Binary, cfg.Dir, cfg.Seed, cfg.Duration, cfg.Log, cfg.Say = binary, t.TempDir(), *seed, *duration, log, t.Logf
	report, err := chaos.Run(ctx, cfg)
	t.Logf("%+v", report)
	if err != nil {
		if text, readErr := os.ReadFile(log.Name()); readErr == nil {
			t.Logf("the processes' last words:\n%s", text[max(0, len(text)-8<<10):])
		}
		t.Fatal(err)
	}
	return report
}
