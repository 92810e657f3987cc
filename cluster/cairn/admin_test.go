package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/cairnfs/cairn/cluster/top"
)

func TestAdmin(t *testing.T) {
	s, c := newShell(t)
	s.put("/f", "hello")
	var st statusFacts
	s.fact(&st, "admin", "status")
	if st.Cluster != "local" || st.Master.ID != "m1" || st.Master.Epoch != 1 || st.Files != 1 || st.ChunkserversUp != 4 || st.CapacityBytes == 0 {
		t.Errorf("status: %+v", st)
	}
	if got := s.must("admin", "status"); !strings.Contains(got, "4 of 4 up") || !strings.Contains(got, "0 missing") {
		t.Errorf("status: %q", got)
	}
	known := map[string]bool{}
	for line := range strings.Lines(s.must("--json", "admin", "servers")) {
		var f serverFacts
		if err := json.Unmarshal([]byte(line), &f); err != nil || !f.Up || f.Address == "" || f.Rack == "" || f.CapacityBytes == 0 {
			t.Errorf("server: %v: %s", err, line)
		}
		known[f.ID] = true
	}
	table := s.must("admin", "servers")
	for i := range 4 {
		if id := string(c.ServerID(i)); !known[id] || !strings.Contains(table, id) {
			t.Errorf("chunkserver %s is not listed", id)
		}
	}
	var m masterFacts
	s.fact(&m, "admin", "masters")
	if m.ID != "m1" || !m.Acting || m.Version == "" {
		t.Errorf("masters: %+v", m)
	}
	if got := s.must("admin", "masters"); !strings.Contains(got, "acting") {
		t.Errorf("masters: %q", got)
	}
}

// stream runs a command that goes on until it is interrupted. What it prints is read from the reader; the function
// interrupts it and returns its status.
func (s shell) stream(args ...string) (*bufio.Scanner, func() int) {
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	out, in := io.Pipe()
	status := make(chan int, 1)
	go func() {
		var errs bytes.Buffer
		status <- run(ctx, append([]string{"--nats", s.url}, args...), strings.NewReader(""), in, &errs)
		if errs.Len() > 0 {
			s.t.Errorf("cairn %v: %s", args, &errs)
		}
		_ = in.Close()
	}()
	return bufio.NewScanner(out), func() int {
		cancel()
		_, _ = io.Copy(io.Discard, out)
		return <-status
	}
}

func TestAdminEvents(t *testing.T) {
	s, _ := newShell(t)
	for _, args := range [][]string{{"admin", "events"}, {"--json", "admin", "events"}} {
		lines, stop := s.stream(args...)
		made := make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		go func() { // until the listener listens
			defer close(made)
			for ctx.Err() == nil {
				s.put("/f", "hello")
			}
		}()
		for lines.Scan() {
			if strings.Contains(lines.Text(), "file.created") {
				break
			}
		}
		cancel()
		got := lines.Text()
		if status := stop(); status != 0 {
			t.Errorf("%v: status %d", args, status)
		}
		<-made
		if !strings.Contains(got, "/f") {
			t.Errorf("%v: %q", args, got)
		}
		var e eventFacts
		if err := json.Unmarshal([]byte(got), &e); args[0] == "--json" && (err != nil || e.Kind != "file.created" || e.Path != "/f" || time.Since(e.Time) > time.Minute) {
			t.Errorf("%v: %+v, %v", args, e, err)
		}
	}
}

func TestAdminTop(t *testing.T) {
	s, _ := newShell(t)
	lines, stop := s.stream("--json", "admin", "top")
	var got top.Snapshot
	if !lines.Scan() || json.Unmarshal(lines.Bytes(), &got) != nil || len(got.Servers) != 4 || got.Master.ID != "m1" {
		t.Errorf("top: %s", lines.Text())
	}
	if status := stop(); status != 0 {
		t.Errorf("top: status %d", status)
	}
}
