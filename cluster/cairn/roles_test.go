package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A role with an address for HTTP that is taken: the default one is left out, one that was asked for is an error.
func TestHTTPAddressesThatAreTaken(t *testing.T) {
	s, _ := newShell(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	dir := t.TempDir()
	status, _, stderr := s.try(nil, "chunkserver", "--data", filepath.Join(dir, "a"), "--listen", "127.0.0.1:0", "--http", taken.Addr().String())
	if status != 1 || !strings.Contains(stderr, "--http") {
		t.Errorf("an address that is taken: status %d: %s", status, stderr)
	}
	status, _, stderr = s.try(nil, "chunkserver", "--data", filepath.Join(dir, "a"), "--listen", "127.0.0.1:0", "--http", "0.0.0.0:0")
	if status != 1 || !strings.Contains(stderr, "--insecure") {
		t.Errorf("an address beyond loopback: status %d: %s", status, stderr)
	}
	// Of two with the default at most one has it; both run.
	for _, name := range []string{"a", "b"} {
		s.untilReady("chunkserver", "--data", filepath.Join(dir, name), "--listen", "127.0.0.1:0")
	}
}

// untilReady runs a role until the test ends and returns when it is ready.
func (s shell) untilReady(args ...string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	out, in := io.Pipe()
	var stderr bytes.Buffer
	done := make(chan int, 1)
	go func() {
		done <- run(ctx, append([]string{"--nats", s.url}, args...), strings.NewReader(""), in, &stderr)
		_ = in.Close()
	}()
	s.t.Cleanup(func() {
		cancel()
		if status := <-done; status != 0 {
			s.t.Errorf("cairn %s: status %d: %s", strings.Join(args, " "), status, stderr.String())
		}
	})
	lines := bufio.NewScanner(out)
	if !lines.Scan() || !strings.HasPrefix(lines.Text(), "ready ") {
		s.t.Fatalf("cairn %s printed %q", strings.Join(args, " "), lines.Text())
	}
}

func TestPeers(t *testing.T) {
	good := []string{"m1=127.0.0.1:7400", "m2=10.0.0.2:7400", "m3=host:7400"}
	peers, err := parsePeers("m1", good, false)
	if err != nil || len(peers) != 3 || peers[2].ID != "m3" || peers[2].Addr != "host:7400" {
		t.Errorf("%v, %v", peers, err)
	}
	if peers, err := parsePeers("m1", nil, false); err != nil || peers != nil {
		t.Errorf("none: %v, %v", peers, err)
	}
	if _, err := parsePeers("m2", good, true); err != nil {
		t.Errorf("with --insecure: %v", err)
	}
	for _, c := range []struct{ own, peers, say string }{
		{"m2", "m1=127.0.0.1:7400,m2=10.0.0.2:7400,m3=host:7400", "--insecure"},
		{"m1", "m1=127.0.0.1:1,m2=127.0.0.1:2", "3 or 5"},
		{"m4", "m1=127.0.0.1:1,m2=127.0.0.1:2,m3=127.0.0.1:3", "lacks"},
		{"m1", "m1=127.0.0.1:1,m1=127.0.0.1:2,m3=127.0.0.1:3", "twice"},
		{"m1", "m1=127.0.0.1:1,m2=127.0.0.1:1,m3=127.0.0.1:3", "twice"},
		{"m1", "m1=127.0.0.1:1,m2=127.0.0.1,m3=127.0.0.1:3", "HOST:PORT"},
		{"m1", "m1=127.0.0.1:1,=127.0.0.1:2,m3=127.0.0.1:3", "HOST:PORT"},
		{"m1", "m1=127.0.0.1:1,m2,m3=127.0.0.1:3", "HOST:PORT"},
	} {
		if _, err := parsePeers(c.own, strings.Split(c.peers, ","), false); err == nil || !strings.Contains(err.Error(), c.say) {
			t.Errorf("%s among %s: %v, want %q in it", c.own, c.peers, err, c.say)
		}
	}
}

// Wrong arguments of any command are one line that says what is wanted, and status 2, before anything is done.
func TestWrongArguments(t *testing.T) {
	for _, line := range []string{
		"nonsense", "--nonsense", "put", "get /a", "cat", "ls --nonsense", "stat", "mkdir", "rm", "mv /a", "append", "append --raw --whole /a", "tail", "tail -n x /a",
		"chmod 9 /a", "chmod", "chown", "setrep x /a", "setrep", "df /a", "locate", "undelete", "trash", "trash nonsense",
		"admin", "admin nonsense", "admin status x", "admin servers x", "admin masters x", "admin events x", "admin top x", "admin top", "admin gc x",
		"admin backup", "admin restore", "admin restore x", "bench nonsense", "bench", "bench write --size x",
		"nats x", "nats --listen x", "nats --listen 0.0.0.0:0", "master", "master --id m1", "master --id m1 --data d --peers x",
		"master --id m1 --data d --peers m1=0.0.0.0:1,m2=h:2,m3=h:3", "chunkserver", "chunkserver --data d --capacity x", "chunkserver --data d --listen x",
		"dev --masters 2", "dev --chunkservers 0", "dev --port 99999", "local", "local nonsense", "local up --masters 2", "local up --port -1",
		"local kill", "local start", "demo --nonsense", "version x", "completion nonsense",
	} {
		var out, errs bytes.Buffer
		status := run(t.Context(), strings.Fields(line), strings.NewReader(""), &out, &errs)
		if status != exitUsage || strings.Count(errs.String(), "\n") != 1 || !strings.HasPrefix(errs.String(), "cairn: ") {
			t.Errorf("cairn %s: status %d: %s%s", line, status, &out, &errs)
		}
	}
}
