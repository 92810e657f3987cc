package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cairnfs/cairn/cluster/clustertest"
)

// shell runs the command against one cluster.
type shell struct {
	t   testing.TB
	url string
}

func newShell(t testing.TB) (shell, *clustertest.Cluster) {
	c := clustertest.Start(t)
	return shell{t, c.URL()}, c
}

// try runs the command and returns its status and output.
func (s shell) try(stdin io.Reader, args ...string) (status int, stdout, stderr string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 2*time.Minute)
	defer cancel()
	if stdin == nil {
		stdin = strings.NewReader("")
	}
	var out, errs bytes.Buffer
	status = run(ctx, append([]string{"--nats", s.url}, args...), stdin, &out, &errs)
	return status, out.String(), errs.String()
}

// must runs the command, which must succeed, and returns what it printed.
func (s shell) must(args ...string) string {
	s.t.Helper()
	status, stdout, stderr := s.try(nil, args...)
	if status != 0 {
		s.t.Fatalf("cairn %s: status %d: %s", strings.Join(args, " "), status, stderr)
	}
	return stdout
}

func TestPutAndGetOf300MiBAreEqual(t *testing.T) {
	s, c := newShell(t)
	const size = 300<<20 + 12345
	local := filepath.Join(t.TempDir(), "big")
	want := writeRandom(t, local, size)
	s.must("put", local, "/big")
	if n := s.sizeOf("/big"); n != size {
		t.Errorf("stat says %d bytes, stored were %d", n, size)
	}
	back := filepath.Join(t.TempDir(), "back")
	s.must("get", "/big", back)
	if got := hashFile(t, back); got != want {
		t.Error("the file came back different")
	}
	var lines int
	for line := range strings.Lines(s.must("--json", "locate", "/big")) {
		lines++
		var l struct {
			Servers []struct{ ID string } `json:"servers"`
		}
		if err := json.Unmarshal([]byte(line), &l); err != nil || len(l.Servers) != 3 {
			t.Errorf("a chunk with other than three replicas (%v): %s", err, line)
		}
	}
	if lines != 5 {
		t.Errorf("%d chunks, want 5", lines)
	}
	stored := 0
	for i := range 4 {
		stored += replicaFiles(t, c.ChunkDir(i))
	}
	if stored != 15 {
		t.Errorf("%d replicas on disk, want 5 chunks three times", stored)
	}
}

// replicaFiles counts the data files below a chunkserver's directory of chunks.
func replicaFiles(t testing.TB, dir string) (n int) {
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && len(d.Name()) == 16 {
			n++
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestTheGoToolchainsSourceInAndOut(t *testing.T) {
	s, _ := newShell(t)
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	s.must("mkdir", "/src")
	for _, name := range []string{"net", "runtime"} {
		local := filepath.Join(strings.TrimSpace(string(root)), "src", name)
		s.must("put", "-r", local, "/src")
		back := filepath.Join(t.TempDir(), name)
		s.must("get", "-r", "/src/"+name, back)
		if out, err := exec.Command("diff", "-r", local, back).CombinedOutput(); err != nil {
			t.Errorf("diff -r of %s: %v\n%.2000s", name, err, out)
		}
	}
}

func TestAppendFromEightProcessesAtOnce(t *testing.T) {
	s, _ := newShell(t)
	const producers, lines = 8, 10_000
	var wg sync.WaitGroup
	for p := range producers {
		wg.Go(func() {
			var in strings.Builder
			for i := range lines {
				fmt.Fprintf(&in, "%d/%d\n", p, i)
			}
			if status, _, stderr := s.try(strings.NewReader(in.String()), "append", "/log"); status != 0 {
				t.Errorf("producer %d: status %d: %s", p, status, stderr)
			}
		})
	}
	wg.Wait()
	got := strings.Fields(s.must("cat", "--records", "/log"))
	slices.Sort(got)
	var want []string
	for p := range producers {
		for i := range lines {
			want = append(want, fmt.Sprintf("%d/%d", p, i))
		}
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%d records, want each of %d once", len(got), len(want))
	}
}

func TestFileCommands(t *testing.T) {
	s, _ := newShell(t)
	s.must("mkdir", "-p", "/a/b")
	if status, _, stderr := s.try(strings.NewReader("hello\n"), "put", "-", "/a/b/f"); status != 0 {
		t.Fatal(stderr)
	}
	if got := s.must("cat", "/a/b/f"); got != "hello\n" {
		t.Errorf("cat: %q", got)
	}
	if got := s.must("ls", "/a"); got != "b/\n" {
		t.Errorf("ls: %q", got)
	}
	if got := s.must("ls", "-l", "/a/b"); !strings.HasPrefix(got, "-rw-r--r--") || !strings.Contains(got, "/a/b/f") {
		t.Errorf("ls -l: %q", got)
	}
	s.must("mv", "/a/b/f", "/a")
	if got := s.must("cat", "/a/f"); got != "hello\n" {
		t.Errorf("after mv into a directory: %q", got)
	}
	if got := s.must("stat", "/a/f"); !strings.Contains(got, "6 (6 B)") {
		t.Errorf("stat: %q", got)
	}
	s.must("rm", "/a/f")
	s.must("rm", "-r", "/a")
	if got := s.must("ls"); got != "" {
		t.Errorf("ls of the emptied root: %q", got)
	}
	if status, out, _ := s.try(strings.NewReader("x\ny\n"), "append", "-v", "/r"); status != 0 || out == "" || !strings.HasPrefix(out, "0\n") {
		t.Errorf("append -v: status %d, %q", status, out)
	}
	if got := s.must("cat", "--records", "/r"); got != "x\ny\n" {
		t.Errorf("cat --records: %q", got)
	}
	if status, _, stderr := s.try(strings.NewReader("raw\n"), "append", "--raw", "/raw"); status != 0 {
		t.Error(stderr)
	}
	if got := s.must("cat", "/raw"); got != "raw\n" {
		t.Errorf("append --raw: %q", got)
	}
}

func TestWrongUse(t *testing.T) {
	s, _ := newShell(t)
	s.must("mkdir", "/d")
	s.must("mkdir", "/d/sub")
	for _, c := range []struct {
		args   string
		status int
		say    string
	}{
		{"frobnicate", 2, "--help"},
		{"ls --frobnicate", 2, "--help"},
		{"mv /a", 2, "mv FROM TO"},
		{"stat", 2, "stat PATH"},
		{"cat /missing", 1, "/missing"},
		{"cat /d", 1, "directory"},
		{"rm /d", 1, "not empty"},
		{"rm /missing", 1, "not exist"},
		{"rm -r /missing", 1, "not exist"},
		{"mkdir /d", 1, "exist"},
		{"mkdir /no/parent", 1, "not exist"},
		{"ls relative", 1, "absolute"},
		{"mv /d /d/sub/d", 1, "invalid"},
		{"put /nonexistent-local-file /x", 1, "no such file"},
		{"put . /x", 2, "-r"},
		{"put --replicas 9 go.mod /x", 1, ""},
		{"dev --chunkservers 0", 2, "at least 1"},
		{"nats --listen 0.0.0.0:0", 1, "--insecure"},
		{"chunkserver --data " + t.TempDir() + " --listen 0.0.0.0:0", 1, "--insecure"},
	} {
		status, _, stderr := s.try(nil, strings.Fields(c.args)...)
		if status != c.status || !strings.Contains(stderr, c.say) {
			t.Errorf("cairn %s: status %d, want %d; said %q, want %q in it", c.args, status, c.status, stderr, c.say)
		}
		if strings.Count(stderr, "\n") != 1 {
			t.Errorf("cairn %s: want one line on stderr, got %q", c.args, stderr)
		}
	}
}

func TestNoNATSServerIsSaidAtOnce(t *testing.T) {
	s := shell{t, "nats://127.0.0.1:1"}
	for _, args := range [][]string{{"ls"}, {"put", "cairn_test.go", "/x"}, {"append", "/x"}, {"stat", "/"}} {
		begin := time.Now()
		status, _, stderr := s.try(nil, args...)
		if status != 1 || !strings.Contains(stderr, "127.0.0.1:1") || time.Since(begin) > 5*time.Second {
			t.Errorf("cairn %v: status %d after %s: %s", args, status, time.Since(begin), stderr)
		}
	}
}

func TestStoppingTheBusStopsLs(t *testing.T) {
	s, c := newShell(t)
	s.must("ls")
	c.StopNATS()
	if status, _, stderr := s.try(nil, "ls"); status != 1 || !strings.Contains(stderr, strings.TrimPrefix(s.url, "nats://")) {
		t.Errorf("ls without the bus: status %d: %s", status, stderr)
	}
}

func (s shell) sizeOf(path string) int64 {
	s.t.Helper()
	var e entry
	if err := json.Unmarshal([]byte(s.must("--json", "stat", path)), &e); err != nil {
		s.t.Fatal(err)
	}
	return e.Size
}

func writeRandom(t testing.TB, name string, size int64) [32]byte {
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	hash := sha256.New()
	source := rand.NewChaCha8([32]byte{1})
	if _, err := io.Copy(io.MultiWriter(f, hash), io.LimitReader(source, size)); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return [32]byte(hash.Sum(nil))
}

func hashFile(t testing.TB, name string) [32]byte {
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, f); err != nil {
		t.Fatal(err)
	}
	return [32]byte(hash.Sum(nil))
}
