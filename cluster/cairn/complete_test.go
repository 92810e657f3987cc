package main

import (
	"strings"
	"testing"
)

func TestCompletion(t *testing.T) {
	s, _ := newShell(t)
	s.must("mkdir", "-p", "/logs/old")
	s.put("/logs/one", "1")
	s.put("/logs/other", "2")
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"cat", ""}, "/logs/"},
		{[]string{"cat", "/lo"}, "/logs/"},
		{[]string{"cat", "/logs/o"}, "/logs/old/ /logs/one /logs/other"},
		{[]string{"cat", "/logs/one", "/logs/ot"}, "/logs/other"},
		{[]string{"cat", "local"}, ""},
		{[]string{"cat", "/missing/x"}, ""},
		{[]string{"chmod", ""}, ""},
		{[]string{"chmod", "644", "/logs/on"}, "/logs/one"},
		{[]string{"trash", ""}, "ls"},
		{[]string{"admin", "st"}, "status"},
		{[]string{"df", ""}, ""},
	} {
		var got []string
		for line := range strings.Lines(s.must(append([]string{"__complete"}, c.args...)...)) {
			if line = strings.TrimSpace(line); !strings.HasPrefix(line, ":") {
				word, _, _ := strings.Cut(line, "\t")
				got = append(got, word)
			}
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%v: %q, want %q", c.args, got, c.want)
		}
	}
	if got := s.must("completion", "bash"); !strings.Contains(got, "cairn") {
		t.Error("no script for bash")
	}
}
