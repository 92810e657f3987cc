package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/cairnfs/cairn/cluster/bench"
)

// TestMain lets the test's binary take the parts of the raw limits, as the command's does.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "bench" && os.Args[2] == limitsRole {
		main()
		return
	}
	os.Exit(m.Run())
}

// measured is what scripts rely on in a line of bench --json.
type measured struct {
	Name    string   `json:"name"`
	Bytes   int64    `json:"bytes"`
	Ops     int64    `json:"ops"`
	Seconds *float64 `json:"seconds"`
	Rate    *float64 `json:"rate"`
	P50     *float64 `json:"p50_ms"`
	P99     *float64 `json:"p99_ms"`
	Max     *float64 `json:"max_ms"`
	Errors  *int64   `json:"errors"`
	Lost    *int64   `json:"lost"`
	Torn    *int64   `json:"torn"`
	Sync    string   `json:"sync"`
	Limit   string   `json:"limit"`
	Ratio   float64  `json:"ratio"`
	Lowest  float64  `json:"ratio_lowest"`
	Best    float64  `json:"ratio_best"`
	Servers float64  `json:"server_cpu_seconds_per_gib"`
}

func TestBenchMeasuresTheCluster(t *testing.T) {
	s, _ := newShell(t)
	for _, c := range []struct {
		args  string
		names []string
		bytes int64
		ops   int64
		sync  string
	}{
		{"write --clients 3", []string{"write-3"}, 5 << 20, 0, "none"},
		{"write --path decoupled --in /", []string{"write-1-decoupled"}, 5 << 20, 0, "none"},
		{"append --path in-order --clients 2 --record 1M", []string{"append-1MiB-2x64-in-order"}, 5 << 20, 5, "none"},
		{"write --synced", []string{"write-1"}, 5 << 20, 0, "fsync"},
		{"read --clients 2", []string{"read-2"}, 5 << 20, 0, "none"},
		{"read --random --clients 2", []string{"read-random-2x4"}, 5 << 20, 80, "none"},
		{"append --clients 4 --in-flight 8", []string{"append-1KiB-4x8"}, 5 << 20, 5 << 10, "none"},
		{"append --clients 2 --record 1M --synced", []string{"append-1MiB-2x64"}, 5 << 20, 5, "fsync"},
		{"meta", []string{"stat-1x64", "create-1x64"}, 0, 300, ""},
	} {
		args := append([]string{"--json", "bench"}, strings.Fields(c.args)...)
		out := s.must(append(args, "--runs", "2", "--size", "5MiB", "--ops", "300")...)
		var names []string
		for line := range strings.Lines(out) {
			var m measured
			if err := json.Unmarshal([]byte(line), &m); err != nil {
				t.Fatalf("bench %s: %v: %s", c.args, err, line)
			}
			names = append(names, m.Name)
			if m.Bytes != c.bytes || m.Ops != c.ops || c.sync != "" && m.Sync != c.sync {
				t.Errorf("bench %s: %d bytes, %d ops, sync %q; want %d, %d, %q", c.args, m.Bytes, m.Ops, m.Sync, c.bytes, c.ops, c.sync)
			}
			if m.Seconds == nil || m.Rate == nil || m.P50 == nil || m.P99 == nil || m.Max == nil || *m.Rate <= 0 || *m.P50 > *m.P99 || *m.P99 > *m.Max {
				t.Errorf("bench %s: an odd line: %s", c.args, line)
			}
			if m.Errors == nil || m.Lost == nil || m.Torn == nil || *m.Errors+*m.Lost+*m.Torn != 0 {
				t.Errorf("bench %s: errors: %s", c.args, line)
			}
		}
		if got, want := strings.Join(names, " "), strings.Join(c.names, " "); got != want {
			t.Errorf("bench %s: cases %s, want %s", c.args, got, want)
		}
	}
	if left := s.must("ls", "/"); left != "" {
		t.Errorf("the cluster is left with %q", left)
	}
	if out := s.must("bench", "write", "--runs", "1", "--size", "64K"); strings.Count(out, "\n") != 2 || !strings.HasPrefix(out, "NAME") {
		t.Errorf("the table for people: %q", out)
	}
}

func TestBenchHoldsCasesAgainstTheirLimits(t *testing.T) {
	s, _ := newShell(t)
	dir := t.TempDir()
	for args, limit := range map[string]string{
		"write --clients 2": "chain-2", "read": "read-verified", "read --random": "pread-4", "append --record 64K --clients 2": "chain", "append": "",
	} {
		out := s.must(append(strings.Fields("--json bench "+args),
			"--runs", "2", "--size", "16M", "--limits", "--warm", "1M", "--dir", dir, "--server-pid", fmt.Sprint(os.Getpid()))...)
		var m measured
		if err := json.Unmarshal([]byte(out), &m); err != nil {
			t.Fatalf("bench %s: %v: %s", args, err, out)
		}
		if m.Limit != limit || (m.Ratio > 0) != (limit != "") || m.Lowest > m.Ratio || m.Ratio > m.Best || m.Servers <= 0 && strings.HasPrefix(args, "write") {
			t.Errorf("bench %s: want a ratio to %q: %s", args, limit, out)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v (%v)", left, err)
	}
	if status, _, stderr := s.try(nil, "bench", "write", "--size", "1M", "--server-pid", "1073741824"); status != exitFailed || !strings.Contains(stderr, "process 1073741824") {
		t.Errorf("a process that is not there: status %d, %q", status, stderr)
	}
}

func TestWrongUseOfBench(t *testing.T) {
	s := shell{t, "nats://127.0.0.1:1"}
	for _, args := range []string{
		"bench", "bench everything", "bench write everything", "bench write --size 3Q", "bench write --size 0", "bench write --size -1",
		"bench write --path sideways", "bench read --path in-order",
		"bench write --runs 0", "bench write --runs 1001", "bench write --clients 257", "bench append --record 23", "bench append --record 17M",
		"bench append --in-flight 5000", "bench meta --ops 0", "bench all --clients 2", "bench limits --runs 0", "bench limits cahin", "bench limits chain x", "bench limits --clients 65",
		"bench limits-role", "bench limits-role king",
	} {
		if status, out, stderr := s.try(nil, strings.Fields(args)...); status != exitUsage || out != "" || strings.Count(stderr, "\n") != 1 {
			t.Errorf("cairn %s: status %d, %q, %q; want 2 and one line on stderr", args, status, out, stderr)
		}
	}
}

func TestChoosingCases(t *testing.T) {
	cases := []bench.Case{{Name: "tcp"}, {Name: "nats-echo-1"}, {Name: "nats-echo-64"}}
	for wanted, want := range map[string]int{"": 3, "tcp": 1, "nats": 2, "nats-echo-64 tcp": 2, "nats tcp": 3, "nats nats-echo-1": 2} {
		if got, err := only(cases, strings.Fields(wanted)); err != nil || len(got) != want {
			t.Errorf("%q chooses %d cases (%v), want %d", wanted, len(got), err, want)
		}
	}
}

func TestSizesRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := size(rapid.Int64Range(0, 1<<50).Draw(t, "size")) >> rapid.IntRange(0, 49).Draw(t, "shift") << rapid.SampledFrom([]int{0, 0, 10, 12}).Draw(t, "unit")
		var got size
		if err := got.Set(want.String()); err != nil || got != want {
			t.Errorf("%s is read as %d (%v), want %d", &want, got, err, want)
		}
	})
}

func TestSizesForPeople(t *testing.T) {
	for text, want := range map[string]size{
		"0": 0, "7": 7, "7b": 7, "7B": 7, "64k": 64 << 10, "64K": 64 << 10, "64KB": 64 << 10, "64KiB": 64 << 10, "3m": 3 << 20, "1GiB": 1 << 30, "2T": 2 << 40,
	} {
		var got size
		if err := got.Set(text); err != nil || got != want {
			t.Errorf("%s is read as %d (%v), want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "K", "-1", "1.5M", "7i", "7iB", "7bb", "7KK", "7Q", "9999999999999999999", "5000000T", "0x10", "1 K"} {
		var got size
		if err := got.Set(text); err == nil {
			t.Errorf("%q is read as %d", text, got)
		}
	}
}
