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
	"runtime"
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
	ticker, tooLong := time.NewTicker(50*time.Millisecond), time.After(time.Minute)
	defer ticker.Stop()
	for {
		stored := 0
		for i := range 4 {
			stored += replicaFiles(t, c.ChunkDir(i))
		}
		if stored == 15 {
			return
		}
		select {
		case <-ticker.C: // a chunk that was reserved behind the last is given up and deleted
		case <-tooLong:
			t.Fatalf("%d replicas on disk, want 5 chunks three times", stored)
		}
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
	if status, out, _ := s.try(strings.NewReader("one"), "--json", "append", "-v", "--whole", "/r2"); status != 0 || out != "{\"offset\":0}\n" {
		t.Errorf("append -v --json: status %d, %q", status, out)
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

func TestAttributes(t *testing.T) {
	s, _ := newShell(t)
	s.must("mkdir", "-p", "/a/b")
	for _, name := range []string{"/a/one", "/a/b/two"} {
		s.put(name, "hello\n")
	}
	s.must("chmod", "600", "/a/one")
	s.must("chmod", "-R", "750", "/a/b")
	s.must("chown", "-R", "ada:staff", "/a")
	s.must("chown", ":ops", "/a/one")
	s.must("setrep", "2", "/a/one")
	s.must("truncate", "1K", "/a/one")
	if n := s.sizeOf("/a/one"); n != 1024 {
		t.Errorf("truncated to %d bytes", n)
	}
	s.must("setrep", "-R", "1", "/a/b")
	for _, want := range []entry{
		{Path: "/a", Mode: "0755", Owner: "ada", Group: "staff"},
		{Path: "/a/one", Mode: "0600", Owner: "ada", Group: "ops", Replicas: 2},
		{Path: "/a/b", Mode: "0750", Owner: "ada", Group: "staff"},
		{Path: "/a/b/two", Mode: "0750", Owner: "ada", Group: "staff", Replicas: 1},
	} {
		var got entry
		s.fact(&got, "stat", want.Path)
		if got.Path != want.Path || got.Mode != want.Mode || got.Owner != want.Owner || got.Group != want.Group || got.Replicas != want.Replicas {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
	if status, _, stderr := s.try(nil, "--user", "eve", "chmod", "777", "/a/one"); status != 1 || !strings.Contains(stderr, "eve") {
		t.Errorf("chmod by another user: status %d: %s", status, stderr)
	}
}

func TestDuAndDf(t *testing.T) {
	s, _ := newShell(t)
	s.must("mkdir", "-p", "/a/b")
	s.put("/a/one", strings.Repeat("x", 1000))
	s.put("/a/b/two", strings.Repeat("y", 500))
	s.must("setrep", "2", "/a/b/two")
	var sum holding
	s.fact(&sum, "du", "-s", "/a")
	if want := (holding{Path: "/a", Bytes: 1500, StoredBytes: 4000, Files: 2, Directories: 2, Chunks: 2}); sum != want {
		t.Errorf("du -s: %+v, want %+v", sum, want)
	}
	if got := s.must("du", "/a"); !strings.Contains(got, "500 B") || strings.Index(got, "/a/b\n") > strings.Index(got, "/a\n") {
		t.Errorf("du: %q", got)
	}
	if got := s.must("du", "/a/one"); !strings.Contains(got, "1000 B") || !strings.Contains(got, "/a/one") {
		t.Errorf("du of a file: %q", got)
	}
	var room space
	s.fact(&room, "df")
	if room.CapacityBytes <= room.FreeBytes || room.Files != 2 || room.Chunkservers != 4 || room.ChunkserversUp != 4 {
		t.Errorf("df: %+v", room)
	}
	if got := s.must("df"); !strings.Contains(got, "4 of 4 up") {
		t.Errorf("df: %q", got)
	}
}

func TestTrash(t *testing.T) {
	s, _ := newShell(t)
	if got := s.must("trash", "ls"); got != "" {
		t.Errorf("an empty trash: %q", got)
	}
	s.must("mkdir", "-p", "/a/b")
	for _, name := range []string{"/f", "/a/b/g", "/gone"} {
		s.put(name, "hello\n")
	}
	s.must("rm", "/f")
	s.must("rm", "-r", "/a")
	s.must("rm", "--now", "/gone")
	got := s.must("trash", "ls")
	if f, a := strings.Index(got, "  /f\n"), strings.Index(got, "  /a/\n"); f < 0 || a < f || strings.Contains(got, "/gone") || !strings.Contains(got, "6 B") {
		t.Errorf("trash ls: %q", got)
	}
	var r removal
	s.fact(&r, "trash", "ls", "/a")
	if r.Path != "/a" || r.Kind != "directory" || time.Since(r.Removed) > time.Minute {
		t.Errorf("trash ls /a: %+v", r)
	}
	s.must("undelete", "/a", "/f")
	if got := s.must("cat", "/a/b/g", "/f"); got != "hello\nhello\n" {
		t.Errorf("what came back: %q", got)
	}
	s.must("rm", "-r", "--now", "/a")
	if got := s.must("trash", "ls"); got != "" {
		t.Errorf("trash ls in the end: %q", got)
	}
	if status, _, stderr := s.try(nil, "undelete", "/a"); status != 1 || !strings.Contains(stderr, "not in the trash") {
		t.Errorf("undelete of what was removed for good: status %d: %s", status, stderr)
	}
}

func TestVersion(t *testing.T) {
	s := shell{t, "nats://127.0.0.1:1"} // it asks nobody
	var v version
	s.fact(&v, "version")
	if v.Version == "" || v.Go != runtime.Version() {
		t.Errorf("version: %+v", v)
	}
	if got := s.must("version"); !strings.HasPrefix(got, "cairn ") {
		t.Errorf("version: %q", got)
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
		{"nats --listen 0.0.0.0:0", 2, "--insecure"},
		{"mkdir", 2, "at least 1 argument"},
		{"cat", 2, "cat [--records] PATH"},
		{"df /", 2, "use cairn df"},
		{"version now", 2, "use cairn version"},
		{"chmod 644", 2, "MODE PATH"},
		{"chmod u+x /d", 2, "octal"},
		{"chmod 1777 /d", 2, "octal"},
		{"chmod 644 /missing", 1, "not exist"},
		{"chown : /d", 2, "OWNER:GROUP"},
		{"chown somebody", 2, "OWNER"},
		{"chown -R somebody /missing", 1, "not exist"},
		{"setrep", 2, "setrep [-R] N PATH"},
		{"truncate", 2, "truncate SIZE PATH"},
		{"truncate much /d", 2, "write 4096, 64K or 1GiB"},
		{"truncate 10 /d", 1, "/d"},
		{"setrep three /d", 2, "1 to 8"},
		{"setrep 9 /d", 2, "1 to 8"},
		{"setrep 2 /d", 1, "/d"},
		{"du /missing", 1, "not exist"},
		{"undelete", 2, "undelete PATH"},
		{"undelete /never-there", 1, "not in the trash"},
		{"undelete /d", 1, "exists"},
		{"trash", 2, "ls"},
		{"trash empty", 2, "no command \"empty\""},
		{"trash ls relative", 1, "absolute"},
		{"rm --now", 2, "rm [-r] [--now] PATH"},
		{"rm --now /d", 1, "not empty"},
		{"tail", 2, "tail [-f] [-n N] PATH"},
		{"tail -n -1 /d", 2, "0 to"},
		{"tail -n many /d", 2, "--help"},
		{"tail -f /missing", 1, "not exist"},
		{"tail /d", 1, "directory"},
		{"admin", 2, "status"},
		{"admin destroy", 2, "no command"},
		{"admin status now", 2, "takes 0 argument"},
		{"admin top", 2, "--json"},
		{"completion", 2, "bash"},
		{"completion tcsh", 2, "bash"},
		{"completion bash tcsh", 2, "--help"},
		{"chunkserver --data " + t.TempDir() + " --listen 0.0.0.0:0", 2, "--insecure"},
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
	s.fact(&e, "stat", path)
	return e.Size
}

// fact runs the command with --json, which must print one object, and decodes it.
func (s shell) fact(into any, args ...string) {
	s.t.Helper()
	if out := s.must(append([]string{"--json"}, args...)...); json.Unmarshal([]byte(out), into) != nil {
		s.t.Fatalf("cairn --json %s: %q is not one object", strings.Join(args, " "), out)
	}
}

// put stores a file.
func (s shell) put(name, content string) {
	s.t.Helper()
	if status, _, stderr := s.try(strings.NewReader(content), "put", "-", name); status != 0 {
		s.t.Fatalf("put %s: status %d: %s", name, status, stderr)
	}
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
