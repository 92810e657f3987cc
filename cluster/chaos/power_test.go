package chaos_test

import (
	"context"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cairnfs/cairn/cluster/chaos"
	"github.com/cairnfs/cairn/cluster/processes"
)

var powerRounds = flag.Int("chaos.power", 0, "how often power is lost; needs root, mkfs.ext4 and loop devices")

// Power is lost everywhere, at all chunkservers, or at one, while clients append and write: what was synced is there
// afterwards, once and whole, all replicas are the same, and writing goes on.
func TestPowerIsLost(t *testing.T) {
	if *powerRounds == 0 {
		return // what needs root is asked for
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(*powerRounds+1)*2*time.Minute)
	defer cancel()
	binary, err := processes.Build(ctx, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	name := *logFile
	if name == "" {
		name = filepath.Join(t.TempDir(), "log")
	}
	log, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	masters := 3 // their log has to survive on a majority of three, and on one alone
	if *seed%2 == 0 {
		masters = 1
	}
	err = chaos.LosePower(ctx, chaos.PowerConfig{
		Binary: binary, Dir: t.TempDir(), Seed: *seed, Rounds: *powerRounds, Masters: masters, Chunkservers: 3, Log: log, Say: t.Logf,
	})
	if err != nil {
		if text, readErr := os.ReadFile(name); readErr == nil {
			t.Logf("the processes' last words:\n%s", text[max(0, len(text)-8<<10):])
		}
		t.Fatal(err)
	}
}
