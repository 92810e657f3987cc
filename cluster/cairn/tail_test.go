package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/cairnfs/cairn/cluster/clustertest"
)

func TestTail(t *testing.T) {
	s, _ := newShell(t)
	line := func(i int) string { return fmt.Sprintf("%d %s\n", i, strings.Repeat("x", 1000)) }
	var all strings.Builder
	const lines = 3000 // more than the first look holds
	for i := range lines {
		all.WriteString(line(i))
	}
	s.append("/log", all.String())
	for _, c := range []struct {
		args  []string
		first int
	}{
		{[]string{}, lines - 10},
		{[]string{"-n", "1"}, lines - 1},
		{[]string{"-n", "0"}, lines},
		{[]string{"-n", "2500"}, 500},
		{[]string{"-n", "5000"}, 0},
	} {
		var want strings.Builder
		for i := c.first; i < lines; i++ {
			want.WriteString(line(i))
		}
		if got := s.must(append(append([]string{"tail"}, c.args...), "/log")...); got != want.String() {
			t.Errorf("tail %v: %d bytes, want %d", c.args, len(got), want.Len())
		}
	}
	var r struct {
		Offset  int64
		Seq     uint64
		Payload []byte
	}
	if s.fact(&r, "tail", "-n", "1", "/log"); string(r.Payload)+"\n" != line(lines-1) || r.Offset == 0 || r.Seq == 0 {
		t.Errorf("tail --json: %+v", r)
	}
	s.append("/empty", "")
	if got := s.must("tail", "/empty"); got != "" {
		t.Errorf("tail of an empty file: %q", got)
	}
}

func TestTailFollowsUntilInterrupted(t *testing.T) {
	s, _ := newShell(t)
	s.append("/log", "one\ntwo\nthree\n")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, in := io.Pipe()
	var errs bytes.Buffer
	status := make(chan int, 1)
	go func() {
		status <- run(ctx, []string{"--nats", s.url, "tail", "-f", "-n", "2", "/log"}, strings.NewReader(""), in, &errs)
		_ = in.Close()
	}()
	expect := func(want string) {
		t.Helper()
		got := make([]byte, len(want))
		if _, err := io.ReadFull(out, got); err != nil || string(got) != want {
			t.Fatalf("got %q, %v, want %q", got, err, want)
		}
	}
	expect("two\nthree\n")
	s.append("/log", "four\nfive\n")
	expect("four\nfive\n")
	cancel()
	if rest, err := io.ReadAll(out); err != nil || len(rest) > 0 {
		t.Errorf("and then %q, %v", rest, err)
	}
	if got := <-status; got != 0 || errs.Len() > 0 {
		t.Errorf("status %d: %s", got, &errs)
	}
}

// append appends each line as a framed record.
func (s shell) append(name, lines string) {
	s.t.Helper()
	if status, _, stderr := s.try(strings.NewReader(lines), "append", name); status != 0 {
		s.t.Fatalf("append %s: status %d: %s", name, status, stderr)
	}
}

// Of many records that fail in the same way, one is told of, and soon: however many lines there are to come.
func TestAppendEndsWithTheFirstFailure(t *testing.T) {
	s := shell{t, clustertest.Start(t, clustertest.WithChunkservers(3), clustertest.WithCapacity(1<<20)).URL()}
	began := time.Now()
	status, _, stderr := s.try(strings.NewReader(strings.Repeat("a line\n", 100_000)), "append", "/f")
	if status != 1 || !strings.Contains(stderr, "no space left") || len(stderr) > 1000 {
		t.Errorf("status %d: %.1000s", status, stderr)
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("100,000 lines failed in %s", took)
	}
}
