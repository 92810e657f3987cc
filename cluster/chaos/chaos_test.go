package chaos_test

import (
	"context"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/cairnfs/cairn/clientlib"
	"github.com/cairnfs/cairn/cluster/chaos"
	"github.com/cairnfs/cairn/cluster/processes"
)

var (
	endurance = flag.Duration("chaos.endurance", 10*time.Second, "how long faults strike one chunkserver after the other")
	seed      = flag.Uint64("chaos.seed", 1, "who is struck, how and when")
	logFile   = flag.String("chaos.log", "", "keep what the processes log in this file")
	only      = flag.String("chaos.only", "", "the one fault that strikes, as a plan names it")
	path      = flag.String("chaos.path", "auto", "the way of the data: auto, in-order or decoupled")
	slow      = flag.Duration("chaos.slow", time.Second, "tell of each stall that lasts longer")
	longest   = flag.Duration("chaos.longest", 15*time.Second, "how long no operation may take: more than lease.Grace, which a chunk waits that lost one of its last two members")
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// One chunkserver at a time is killed, stopped or cut off while producers append and write and readers read: no client
// sees an error, nothing that was acknowledged is lost or there twice, and in the end all replicas are the same.
func TestEndurance(t *testing.T) {
	t.Setenv("CAIRN_LOG_LEVEL", "debug") // the faults are aimed by what the processes log
	binary, err := processes.Build(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*(*endurance)+2*time.Minute)
	defer cancel()
	name := *logFile
	if name == "" {
		name = filepath.Join(t.TempDir(), "log")
	}
	log, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	kinds := []chaos.Fault{
		chaos.Kill, chaos.Kill, chaos.Kill, chaos.Stop, chaos.Stop, chaos.Stop,
		chaos.Refuse, chaos.Silence, chaos.Deafen, chaos.Mute, chaos.NoBus, chaos.NoData,
	}
	if *only != "" {
		kinds = []chaos.Fault{chaos.Fault(*only)}
	}
	way, err := clientlib.ParseDataPath(*path)
	if err != nil {
		t.Fatal(err)
	}
	report, err := chaos.Run(ctx, chaos.Config{
		Binary: binary, Dir: t.TempDir(), Seed: *seed, Duration: *endurance, Chunkservers: 5, Producers: 16, Faults: kinds, Path: way,
		Slow: *slow, Log: log, Say: t.Logf,
	})
	t.Logf("%+v", report)
	if err != nil {
		if text, readErr := os.ReadFile(name); readErr == nil {
			t.Logf("the processes' last words:\n%s", text[max(0, len(text)-8<<10):])
		}
		t.Fatal(err)
	}
	if report.Strikes == 0 {
		t.Error("nobody was struck")
	}
	if report.Worst > *longest {
		t.Errorf("an operation took %s, want %s at most", report.Worst, *longest)
	}
}
