package top

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"go.uber.org/goleak"

	"github.com/cairnfs/cairn/clientlib"
	"github.com/cairnfs/cairn/cluster/clustertest"
	"github.com/cairnfs/cairn/messages/gfs"
)

var (
	start   = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	control = regexp.MustCompile(`\x1b\[[0-9;?]*[a-zA-Z]`)
)

// text is what a person sees.
func text(lines []string) string { return control.ReplaceAllString(strings.Join(lines, "\n"), "") }

func metricsOf(role, id string, at time.Time, values map[string]float64) clientlib.Metrics {
	return clientlib.Metrics{Role: role, ID: id, Time: at, Values: values}
}

func stateOf(servers int) State {
	s := State{
		Space:  clientlib.FSInfo{CapacityBytes: 100 << 30, UsedBytes: 5 << 30, FreeBytes: 50 << 30, Files: 1, Directories: 12, Chunks: 345},
		Master: clientlib.MasterStatus{ID: "m1", Epoch: 7},
	}
	for i := range servers {
		s.Servers = append(s.Servers, clientlib.ServerStatus{
			Server: clientlib.Server{ID: gfs.ServerID(fmt.Sprintf("%016x", i)), Addr: "127.0.0.1:1", Rack: fmt.Sprintf("rack%d", i%2)}, Up: true, LastHeard: 500 * time.Millisecond,
		})
	}
	return s
}

func TestRatesAreKnownAfterTwoMetricsAndNotForLong(t *testing.T) {
	var v View
	v.SetState(stateOf(1))
	id := string(v.state.Servers[0].ID)
	read := func(now time.Time) *float64 { return v.Snapshot("c", now).Servers[0].ReadBytesPerSecond }
	if read(start) != nil {
		t.Error("a rate without metrics")
	}
	v.AddMetrics(metricsOf("chunkserver", id, start, map[string]float64{"read_bytes_total": 100, "in_flight": 3}))
	if got := v.Snapshot("c", start).Servers[0]; got.ReadBytesPerSecond != nil || got.InFlight == nil || *got.InFlight != 3 {
		t.Errorf("after one message: %+v", got)
	}
	later := start.Add(5 * time.Second)
	v.AddMetrics(metricsOf("chunkserver", id, later, map[string]float64{"read_bytes_total": 1100}))
	if got := read(later); got == nil || *got != 200 {
		t.Errorf("1000 bytes in 5 s: %v", got)
	}
	if got := read(later.Add(freshFor + 1)); got != nil {
		t.Errorf("a rate of long ago: %v", *got)
	}
	v.AddMetrics(metricsOf("chunkserver", id, later.Add(5*time.Second), map[string]float64{"read_bytes_total": 10}))
	if got := read(later.Add(5 * time.Second)); got != nil {
		t.Errorf("a process that began anew has rate %v", *got)
	}
}

func TestThePictureFitsTheTerminal(t *testing.T) {
	var v View
	for range 3 * maxEvents {
		v.AddEvent(clientlib.Event{Kind: "file.created", Time: start, Path: "/" + strings.Repeat("ö", 300)})
	}
	if len(v.events) != maxEvents {
		t.Errorf("%d events are remembered", len(v.events))
	}
	for _, known := range []bool{false, true} {
		if known {
			v.SetState(stateOf(20))
		}
		for _, width := range []int{0, 1, 20, 80, 200} {
			for _, height := range []int{0, 1, 5, 10, 24, 60} {
				lines := v.Draw("local", start, width, height)
				if len(lines) > height {
					t.Errorf("%d lines on %d", len(lines), height)
				}
				for _, l := range lines {
					if n := utf8.RuneCountInString(text([]string{l})); n > width {
						t.Errorf("%d columns on %d: %q", n, width, l)
					}
				}
			}
		}
	}
	for width, columns := range map[int]string{60: "READ/S", 80: "FREE", 150: "MUTATIONS/S"} {
		if got := text(v.Draw("local", start, width, 24)); !strings.Contains(got, columns) || !strings.Contains(got, "WRITTEN/S") {
			t.Errorf("no %s in %d columns:\n%s", columns, width, got)
		}
	}
	if got := text(v.Draw("local", start, 100, 12)); !strings.Contains(got, "and 16 more") {
		t.Errorf("twenty servers on 12 lines:\n%s", got)
	}
}

func TestWhatIsWrongStandsOut(t *testing.T) {
	var v View
	if got := text(v.Draw("local", start, 100, 30)); !strings.Contains(got, "asking the master") {
		t.Errorf("at first:\n%s", got)
	}
	s := stateOf(3)
	s.Servers[2].Up = false
	s.Space.Missing = 2
	v.SetState(s)
	picture := strings.Join(v.Draw("local", start, 120, 30), "\n")
	for _, want := range []string{"\x1b[1;31m2 missing", "\x1b[1;31m2 of 3 chunkservers up", "\x1b[1;31m0000000000000002  DOWN", "0 corrupt", "in 1 file, 12 directories", "disks 50% full"} {
		if !strings.Contains(picture, want) {
			t.Errorf("no %q in\n%s", want, picture)
		}
	}
	if down := v.Snapshot("local", start).Servers[0]; down.Up {
		t.Error("who is down does not come first")
	}
	v.SetState(State{Err: errors.New("nobody is there")})
	if got := text(v.Draw("local", start, 100, 30)); !strings.Contains(got, "no answer: nobody is there") || !strings.Contains(got, "2 missing") {
		t.Errorf("without an answer:\n%s", got)
	}
}

func TestNothingFromTheNetworkMovesTheCursor(t *testing.T) {
	var v View
	s := stateOf(1)
	s.Servers[0].Rack = "\x1b[2J\n"
	v.SetState(s)
	v.AddEvent(clientlib.Event{Kind: "file\rcreated", Detail: "\x1b]0;title\x07"})
	for _, l := range v.Draw("\x1b[5m", start, 200, 30) {
		if rest := control.ReplaceAllString(l, ""); strings.ContainsAny(rest, "\x1b\r\n\x07") || strings.Contains(l, "\x1b[2J") {
			t.Errorf("%q", l)
		}
	}
}

func TestMetricsOfManyProcessesAreBounded(t *testing.T) {
	var v View
	for i := range maxProcesses + 10 {
		v.AddMetrics(metricsOf("chunkserver", fmt.Sprint(i), start, nil))
	}
	if len(v.metrics) != maxProcesses {
		t.Errorf("%d processes", len(v.metrics))
	}
	v.AddMetrics(metricsOf("chunkserver", "new", start.Add(time.Hour), nil))
	if len(v.metrics) != 1 {
		t.Errorf("%d processes after an hour of silence", len(v.metrics))
	}
}

func TestRunDrawsUntilItsContextEnds(t *testing.T) {
	cluster := clustertest.Start(t)
	client := cluster.Client()
	before := goleak.IgnoreCurrent()
	for _, asJSON := range []bool{false, true} {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		in, out := io.Pipe()
		ended := make(chan error, 1)
		go func() {
			err := Run(ctx, client, Config{Cluster: "local", Out: out, JSON: asJSON, Size: func() (int, int) { return 120, 40 }})
			ended <- errors.Join(err, out.Close())
		}()
		var got bytes.Buffer
		seen := func() bool {
			if !asJSON {
				return strings.Contains(got.String(), "4 of 4 chunkservers up")
			}
			var s Snapshot
			return json.Unmarshal(got.Bytes(), &s) == nil && len(s.Servers) == 4
		}
		for buf := make([]byte, 1<<16); !seen(); {
			n, err := in.Read(buf)
			if err != nil {
				t.Fatalf("%v after %q", err, got.String())
			}
			got.Write(buf[:n])
		}
		cancel()
		rest, err := io.ReadAll(in)
		if err := errors.Join(err, <-ended); err != nil {
			t.Error(err)
		}
		if !asJSON && !strings.HasSuffix(string(rest), "\x1b[?1049l") {
			t.Errorf("the terminal is left as %q", rest)
		}
	}
	goleak.VerifyNone(t, before)
}
