package clientlib

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"testing/iotest"
	"time"

	"github.com/cairnfs/cairn/messages"
	"github.com/cairnfs/cairn/messages/gfs"
)

func TestWhatIsWrittenIsRead(t *testing.T) {
	p := newPeers(t, 4)
	c := p.connect()
	for _, size := range []int{0, 1, gfs.BlockSize - 1, gfs.BlockSize + 1, 3<<20 + 17, gfs.ChunkSize + gfs.BlockSize/2} {
		name := fmt.Sprintf("/file%d", size)
		data := pattern(size, byte(size))
		mustWrite(t, c, name, data)
		got, err := c.ReadFile(t.Context(), name)
		if err != nil || !bytes.Equal(got, data) {
			t.Fatalf("%d bytes: read %d, %v", size, len(got), err)
		}
		file, err := c.Open(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		var streamed bytes.Buffer
		if n, err := io.Copy(&streamed, file); err != nil || n != int64(size) || !bytes.Equal(streamed.Bytes(), data) {
			t.Fatalf("%d bytes: copied %d, %v", size, n, err)
		}
		if _, err := file.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("read at the end: %v", err)
		}
		if err := file.Close(); err != nil {
			t.Error(err)
		}
		if err := file.Close(); !errors.Is(err, fs.ErrClosed) {
			t.Errorf("second close: %v", err)
		}
	}
}

func TestReaderObeysItsContract(t *testing.T) {
	t.Parallel()
	p := newPeers(t, 3)
	c := p.connect()
	data := pattern(gfs.BlockSize+5000, 1)
	mustWrite(t, c, "/file", data)
	file, err := c.Open(t.Context(), "/file")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := iotest.TestReader(file, data); err != nil {
		t.Error(err)
	}
}

func TestFSPassesTheStandardTest(t *testing.T) {
	p := newPeers(t, 3)
	c := p.connect()
	for _, dir := range []string{"/a", "/a/b", "/empty"} {
		if err := c.MkdirAll(t.Context(), dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	names := []string{"/top", "/a/one", "/a/b/deep"}
	for i := range 8 {
		names = append(names, fmt.Sprintf("/a/many%d", i))
	}
	var expected []string
	for _, name := range names {
		mustWrite(t, c, name, pattern(1000+len(name), 3))
		expected = append(expected, name[1:])
	}
	p.closeChunks()
	if err := fstest.TestFS(c.FS(t.Context()), expected...); err != nil {
		t.Error(err)
	}
	matches, err := fs.Glob(c.FS(t.Context()), "a/many*")
	if err != nil || len(matches) != 8 {
		t.Errorf("glob: %v, %v", matches, err)
	}
}

func TestHolesReadAsZeros(t *testing.T) {
	p := newPeers(t, 3)
	c := p.connect()
	file, err := c.Create(t.Context(), "/sparse")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteAt([]byte("begin"), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteAt([]byte("end"), 2*gfs.ChunkSize+100); err != nil {
		t.Fatal(err)
	}
	info, err := file.Stat(t.Context())
	if err != nil || info.Size() != 2*gfs.ChunkSize+103 {
		t.Fatalf("size %v, %v", info, err)
	}
	buf := bytes.Repeat([]byte{0xff}, 3<<20)
	if n, err := file.ReadAt(buf, gfs.ChunkSize-1<<20); n != len(buf) || err != nil {
		t.Fatalf("read %d, %v", n, err)
	}
	if !bytes.Equal(buf, make([]byte, len(buf))) {
		t.Error("a hole does not read as zeros")
	}
	if n, err := file.ReadAt(buf[:200], 2*gfs.ChunkSize); n != 103 || err != io.EOF || string(buf[100:103]) != "end" {
		t.Errorf("the end: %d, %v, %q", n, err, buf[100:103])
	}
}

func TestCallsEndWithTheirContext(t *testing.T) {
	t.Parallel()
	p := newPeers(t, 3)
	c := p.connect()
	mustWrite(t, c, "/file", pattern(1000, 1))
	file, err := c.OpenFile(t.Context(), "/file", os.O_RDWR)
	if err != nil {
		t.Fatal(err)
	}
	p.onMaster = func(op string, _ int) (gfs.Code, bool, bool) {
		return 0, op != messages.OpLease && op != messages.OpLocate, false
	}
	for _, s := range p.servers {
		s.hush()
	}
	for _, test := range []struct {
		name string
		call func(ctx context.Context) error
		want []error
	}{
		{"stat", func(ctx context.Context) error { _, err := c.Stat(ctx, "/file"); return err }, nil},
		{"mkdir", func(ctx context.Context) error { return c.Mkdir(ctx, "/d", 0o755) }, []error{ErrOutcomeUnknown}},
		{"append", func(ctx context.Context) error { _, err := file.Append(ctx, []byte("r")); return err }, nil},
		{"wait", func(ctx context.Context) error { _, err := file.AppendAsync(ctx, []byte("r")).Wait(ctx); return err }, []error{ErrOutcomeUnknown}},
		{"read", func(ctx context.Context) error {
			_, err := file.WithContext(ctx).ReadAt(make([]byte, 10), 0)
			return err
		}, nil},
	} {
		within(t, 300*time.Millisecond, func(ctx context.Context) {
			err := test.call(ctx)
			for _, want := range append(test.want, context.DeadlineExceeded) {
				if !errors.Is(err, want) {
					t.Errorf("%s: %v, want %v", test.name, err, want)
				}
			}
		})
	}
	start := time.Now()
	c.Close()
	if took := time.Since(start); took > time.Second {
		t.Errorf("closing the client took %v", took)
	}
	if _, err := file.Append(t.Context(), []byte("r")); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("append after the client was closed: %v", err)
	}
}

func TestCallsEndWithoutProgress(t *testing.T) {
	t.Parallel()
	p := newPeers(t, 3)
	c := p.connect(WithTimeout(700 * time.Millisecond))
	mustWrite(t, c, "/file", pattern(1000, 1))
	file, err := c.OpenFile(t.Context(), "/file", os.O_RDWR)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range p.servers {
		s.kill()
	}
	start := time.Now()
	if _, err := file.ReadAt(make([]byte, 10), 0); !errors.Is(err, ErrUnavailable) {
		t.Errorf("read: %v", err)
	}
	if _, err := file.Append(t.Context(), []byte("r")); !errors.Is(err, ErrUnavailable) {
		t.Errorf("append: %v", err)
	}
	if n, err := file.Write([]byte("queued")); n != 6 || err != nil {
		t.Errorf("write: %d, %v", n, err)
	}
	if err := file.Sync(t.Context()); !errors.Is(err, ErrUnavailable) {
		t.Errorf("sync: %v", err)
	}
	if _, err := file.Write([]byte("sticky")); !errors.Is(err, ErrUnavailable) {
		t.Errorf("write after a failed one: %v", err)
	}
	if err := file.Close(); !errors.Is(err, ErrUnavailable) {
		t.Errorf("close: %v", err)
	}
	if took := time.Since(start); took > 8*time.Second {
		t.Errorf("took %v", took)
	}
}

func TestSyncReachesThePrimary(t *testing.T) {
	p := newPeers(t, 3)
	c := p.connect()
	file, err := c.Create(t.Context(), "/file")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.Write([]byte("data")); err != nil {
		t.Fatal(err)
	}
	if err := file.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := p.count("sync"); n != 1 {
		t.Errorf("%d syncs", n)
	}
	if err := file.Sync(t.Context()); err != nil || p.count("sync") != 1 {
		t.Errorf("a sync of nothing new: %v, %d syncs", err, p.count("sync"))
	}
	if _, err := file.Write([]byte("more")); err != nil {
		t.Fatal(err)
	}
	if _, err := file.Stat(t.Context()); err != nil { // waits for the write
		t.Fatal(err)
	}
	p.closeChunks() // made it durable
	if err := file.Sync(t.Context()); err != nil || p.count("sync") != 1 {
		t.Errorf("sync of a closed chunk: %v, %d syncs", err, p.count("sync"))
	}
}

// Power was lost everywhere between an acknowledgement and the Sync that it waits for: Sync says so, once. A chunk that only
// has another version is none the worse.
func TestSyncTellsOfALoss(t *testing.T) {
	p := newPeers(t, 3)
	file, err := p.connect().Create(t.Context(), "/file")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for name, at := range map[string]struct{ lost, closed bool }{
		"the chunk is open":                   {lost: true},
		"it was closed since":                 {lost: true, closed: true},
		"it only has other members":           {},
		"it was closed with all that it held": {closed: true},
	} {
		if _, err := file.Append(t.Context(), []byte("record")); err != nil {
			t.Fatal(err)
		}
		p.mu.Lock()
		for _, c := range p.chunks {
			if c.version = p.newVersion(); at.lost {
				c.lost = c.version
			}
			c.open = !at.closed
		}
		p.mu.Unlock()
		if err := file.Sync(t.Context()); errors.Is(err, ErrUnsyncedLost) != at.lost || (err != nil) != at.lost {
			t.Errorf("%s: sync after a loss (%t): %v", name, at.lost, err)
		}
		if err := file.Sync(t.Context()); err != nil {
			t.Errorf("%s: another sync: %v", name, err)
		}
		if _, err := file.Append(t.Context(), []byte("record")); err != nil {
			t.Fatal(err)
		}
		if err := file.Sync(t.Context()); err != nil {
			t.Errorf("%s: sync of what was written since: %v", name, err)
		}
	}
}

func TestOpenFlags(t *testing.T) {
	p := newPeers(t, 3)
	c := p.connect()
	ctx := t.Context()
	mustWrite(t, c, "/log", []byte("one\n"))
	file, err := c.OpenFile(ctx, "/log", os.O_WRONLY|os.O_APPEND)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"two\n", "three\n"} {
		if _, err := io.WriteString(file, line); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := file.WriteAt([]byte("x"), 0); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("WriteAt with O_APPEND: %v", err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	if data, err := c.ReadFile(ctx, "/log"); err != nil || string(data) != "one\ntwo\nthree\n" {
		t.Errorf("%q, %v", data, err)
	}
	if _, err := c.OpenFile(ctx, "/absent", os.O_RDWR|os.O_TRUNC); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("truncating what is not there: %v", err)
	}
	file, err = c.OpenFile(ctx, "/log", os.O_RDWR|os.O_TRUNC)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if info, err := file.Stat(ctx); err != nil || info.Size() != 0 {
		t.Errorf("truncated: %v, %v", info, err)
	}
	for _, flag := range []int{os.O_RDONLY | os.O_TRUNC, os.O_RDONLY | os.O_APPEND, os.O_RDWR | os.O_WRONLY, os.O_RDWR | os.O_SYNC} {
		if _, err := c.OpenFile(ctx, "/log", flag); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("flags %#x: %v", flag, err)
		}
	}
}

func TestReadSeesQueuedWritesAndGrowth(t *testing.T) {
	p := newPeers(t, 3)
	c := p.connect()
	file, err := c.Create(t.Context(), "/file")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	reader, err := c.Open(t.Context(), "/file")
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	var want []byte
	for i := range 50 {
		more := pattern(i*997%5000+1, byte(i))
		if _, err := file.Write(more); err != nil {
			t.Fatal(err)
		}
		want = append(want, more...)
		got := make([]byte, len(want))
		if n, err := file.ReadAt(got, 0); err != nil || !bytes.Equal(got[:n], want) {
			t.Fatalf("round %d: read back %d of %d, %v", i, n, len(want), err)
		}
		got = make([]byte, len(more))
		if _, err := io.ReadFull(reader, got); err != nil || !bytes.Equal(got, more) {
			t.Fatalf("round %d: another File: %v", i, err)
		}
		if _, err := reader.Read(got); err != io.EOF {
			t.Fatalf("round %d: at the end: %v", i, err)
		}
	}
}

func TestConcurrentUse(t *testing.T) {
	p := newPeers(t, 4)
	p.chunkCap = 64 << 10
	c := p.connect()
	file, err := c.Create(t.Context(), "/file")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	mustWrite(t, c, "/other", pattern(200_000, 9))
	other, err := c.OpenFile(t.Context(), "/other", os.O_RDWR)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	var all sync.WaitGroup
	for w := range 8 {
		all.Go(func() {
			for i := range 40 {
				if _, err := file.Append(t.Context(), fmt.Appendf(nil, "%d-%d;%s", w, i, strings.Repeat(".", i*20))); err != nil {
					t.Errorf("append: %v", err)
				}
				if _, err := other.WriteAt(pattern(100, byte(i)), int64(w*1000)); err != nil {
					t.Errorf("write: %v", err)
				}
				if _, err := other.ReadAt(make([]byte, 5000), int64(i*4000)); err != nil {
					t.Errorf("read: %v", err)
				}
				if _, err := other.Seek(int64(i), io.SeekStart); err != nil {
					t.Errorf("seek: %v", err)
				}
				if _, err := other.Read(make([]byte, 100)); err != nil {
					t.Errorf("read: %v", err)
				}
				if _, err := file.Stat(t.Context()); err != nil {
					t.Errorf("stat: %v", err)
				}
			}
		})
	}
	all.Wait()
	total := 0
	p.mu.Lock()
	for _, h := range p.nodes["/file"].chunks {
		total += p.chunks[h].appends
	}
	p.mu.Unlock()
	if total != 320 {
		t.Errorf("%d appends took effect, want 320", total)
	}
}
