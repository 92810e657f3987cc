package sim

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestDiskFaults lets each kind of fault befall servers, and looks whether it is seen.
func TestDiskFaults(t *testing.T) {
	for verb, seen := range map[string]string{
		badRead:  "input/output error in read",
		badWrite: "input/output error in write",
		badSync:  "input/output error in sync",
		badName:  "input/output error in open",
		badIndex: "input/output error in commit",
		diskFull: "a client is told that",
		flipBit:  "replica declared corrupt",
	} {
		t.Run(verb, func(t *testing.T) {
			found := false
			for seed := uint64(1); seed < 100 && !found; seed++ {
				s := Script{Seed: seed}
				steps := []string{"cs0"}
				if verb == diskFull { // then nobody has space
					steps = []string{"cs0", "cs1", "cs2", "cs3", "cs4"}
				}
				for at := 400 * time.Millisecond; at < 2*time.Second; at += 300 * time.Millisecond {
					for _, name := range steps {
						s.Steps = append(s.Steps, Step{at, verb, []string{name, "200"}})
					}
				}
				s.Steps = append(s.Steps, Step{time.Second, "crash", []string{"cs0"}}, Step{1300 * time.Millisecond, "start", []string{"cs0"}})
				f, _ := Run(s, func(_ time.Duration, text string) { found = found || strings.Contains(text, seen) })
				if f != nil {
					t.Fatal(fmt.Errorf("seed %d: %w\n%s", seed, f, s))
				}
			}
			if !found {
				t.Errorf("%s never led to %q", verb, seen)
			}
		})
	}
}
