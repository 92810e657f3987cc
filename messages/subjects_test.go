package messages

import (
	"errors"
	"io/fs"
	"strings"
	"testing"
)

func TestSubjects(t *testing.T) {
	s, err := NewSubjects("local")
	if err != nil {
		t.Fatal(err)
	}
	for got, want := range map[string]string{
		s.Master(OpStat):                      "cairn.local.master.stat",
		s.Shadow(OpList):                      "cairn.local.shadow.list",
		s.Heartbeat("00ff"):                   "cairn.local.heartbeat.00ff",
		s.Chunkserver("00ff", CommandPrepare): "cairn.local.cs.00ff.prepare",
		s.Event(EventChunkserverUp):           "cairn.local.event.chunkserver.up",
		s.Metrics("master", "m1"):             "cairn.local.metrics.master.m1",
	} {
		if got != want {
			t.Errorf("subject %q, want %q", got, want)
		}
	}
}

func TestClusterNamesThatWouldBreakASubjectAreRefused(t *testing.T) {
	for _, name := range []string{"", "a.b", "a b", "*", ">", "ä", strings.Repeat("x", 65)} {
		if _, err := NewSubjects(name); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("cluster %q: %v, want invalid", name, err)
		}
	}
}
