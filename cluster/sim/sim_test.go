package sim

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

var (
	seedFlag  = flag.Uint64("sim.seed", 0, "run this seed alone")
	seedsFlag = flag.Int("sim.seeds", 0, "how many seeds to run; 0 for as many as a few seconds allow")
	firstFlag = flag.Uint64("sim.first", 1, "the first seed")
	disksFlag = flag.Bool("sim.disks", false, "run only seeds that have bad disks")
	verbose   = flag.Bool("sim.v", false, "print everything that happens")
)

func TestMain(m *testing.M) {
	debug.SetGCPercent(400)
	debug.SetMemoryLimit(1 << 30) // chunks that are full take much at once
	goleak.VerifyTestMain(m)
}

func printer(t *testing.T) Trace {
	if !*verbose {
		return nil
	}
	return func(at time.Duration, text string) { fmt.Printf("%12.6f %s\n", at.Seconds(), text) }
}

func TestSim(t *testing.T) {
	if *seedFlag != 0 {
		report(t, Plan(*seedFlag))
		return
	}
	count, began := 0, time.Now()
	var events, mutations, named int
	for seed := *firstFlag; *seedsFlag == 0 && time.Since(began) < 5*time.Second || count < *seedsFlag; seed++ {
		if *disksFlag && !(Script{Seed: seed}).hasBadDisks() {
			continue
		}
		f, result := Run(Plan(seed), nil)
		if f != nil {
			report(t, Plan(seed))
			return
		}
		count++
		events += result.Events
		mutations += result.Mutations
		named += result.Named
	}
	t.Logf("%d seeds, %d events, %d mutations, %d times pushed data were named, %.0f seeds a minute", count, events, mutations, named, float64(count)/time.Since(began).Minutes())
}

// report runs a script that may fail and says how to do it again.
func report(t *testing.T, s Script) {
	f, result := Run(s, printer(t))
	t.Logf("%+v", result)
	if f == nil {
		return
	}
	minimal := Minimize(s, f.Checker)
	t.Errorf("seed %d: %v\nagain: go test ./cluster/sim -run TestSim -sim.seed=%d -sim.v\nthe steps that it takes:\n%s", s.Seed, f, s.Seed, minimal)
}

// TestScripts runs what failed once.
func TestScripts(t *testing.T) {
	names, err := filepath.Glob("testdata/*.sim")
	if err != nil || len(names) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, name := range names {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".sim"), func(t *testing.T) {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			s, err := Parse(string(text))
			if err != nil {
				t.Fatal(err)
			}
			if f, _ := Run(s, printer(t)); f != nil {
				t.Error(f)
			}
		})
	}
}

// TestRepeated compares two runs of the same seed: a failure that cannot be repeated is worth little.
func TestRepeated(t *testing.T) {
	for seed := range uint64(20) {
		_, one := Run(Plan(seed), nil)
		if _, other := Run(Plan(seed), nil); one != other {
			t.Errorf("seed %d: %+v, and again %+v", seed, one, other)
		}
	}
}

// TestScriptText reads what is printed.
func TestScriptText(t *testing.T) {
	for seed := range uint64(200) {
		s := Plan(seed)
		again, err := Parse(s.String())
		if err != nil || again.String() != s.String() {
			t.Fatalf("seed %d: %v\n%s\n%s", seed, err, s, again)
		}
	}
}
