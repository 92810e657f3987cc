package cluster_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"syscall"
	"testing"

	"github.com/cairnfs/cairn/clientlib"
	"github.com/cairnfs/cairn/cluster/clustertest"
	"github.com/cairnfs/cairn/messages/gfs"
)

// expectFile compares a file's bytes and length, as a client sees them that cached where it was, and as a new one does.
func expectFile(ctx context.Context, t *testing.T, c *clustertest.Cluster, cached *clientlib.File, want []byte) {
	t.Helper()
	for _, client := range []*clientlib.Client{c.Client(), nil} {
		f := cached
		if client != nil {
			var err error
			if f, err = client.Open(ctx, cached.Name()); err != nil {
				t.Fatal(err)
			}
			defer f.Close()
		}
		info, err := f.Stat(ctx)
		if err != nil || info.Size() != int64(len(want)) {
			t.Fatalf("%v, %v: want %d bytes", info, err, len(want))
		}
		got := make([]byte, len(want)+100)
		if n, err := f.WithContext(ctx).ReadAt(got, 0); !bytes.Equal(got[:n], want) {
			t.Fatalf("read %d bytes of %d, or others: %v", n, len(want), err)
		}
	}
}

// TestTruncate makes a file shorter and longer in all ways, with writes in between and a reader that knows where the
// chunks were.
func TestTruncate(t *testing.T) {
	c := clustertest.Start(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	client := c.Client()
	f := mustCreate(ctx, t, client, "/f")
	reader, err := c.Client().Open(ctx, "/f")
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	want := bytes.Repeat([]byte("0123456789abcdef"), (2*gfs.ChunkSize+1<<20)/16)
	if _, err := f.WriteAt(want, 0); err != nil {
		t.Fatal(err)
	}
	truncate := func(size int64) {
		t.Helper()
		if err := f.Truncate(ctx, size); err != nil {
			t.Fatal(err)
		}
		if size > int64(len(want)) {
			want = append(want, make([]byte, size-int64(len(want)))...)
		}
		want = want[:size:size]
		expectFile(ctx, t, c, reader, want)
	}
	write := func(offset int64, data string) {
		t.Helper()
		if _, err := f.WriteAt([]byte(data), offset); err != nil {
			t.Fatal(err)
		}
		if end := offset + int64(len(data)); end > int64(len(want)) {
			want = append(want, make([]byte, end-int64(len(want)))...)
		}
		copy(want[offset:], data)
		expectFile(ctx, t, c, reader, want)
	}
	expectFile(ctx, t, c, reader, want)
	truncate(int64(len(want)))     // as it is, and open
	truncate(2*gfs.ChunkSize + 10) // within the last chunk
	write(2*gfs.ChunkSize+20, "behind the end")
	truncate(gfs.ChunkSize + 70_001) // a chunk away, and within another
	write(gfs.ChunkSize+70_001, "more")
	write(3*gfs.ChunkSize+5, "a hole") // in the place of a chunk that was cut away
	truncate(3 * gfs.ChunkSize)        // at a chunk's end: what is kept there is a hole, and counts
	truncate(gfs.ChunkSize)
	truncate(100)
	truncate(2 * gfs.ChunkSize) // the old bytes do not come back
	truncate(2*gfs.ChunkSize - 7)
	truncate(0)
	truncate(0)
	write(3, "again")
	truncate(1)
	truncate(1000)
	if info, err := client.Stat(ctx, "/f"); err != nil || info.Sys().(*clientlib.FileStatus).Chunks != 1 {
		t.Errorf("%+v, %v", info, err)
	}
}

func TestTruncateRefuses(t *testing.T) {
	c := clustertest.Start(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	client := c.Client()
	if err := client.Mkdir(ctx, "/dir", 0o755); err != nil {
		t.Fatal(err)
	}
	f := mustCreate(ctx, t, client, "/f")
	if err := client.Chown(ctx, "/f", "somebody", ""); err != nil {
		t.Fatal(err)
	}
	read, err := client.Open(ctx, "/f")
	if err != nil {
		t.Fatal(err)
	}
	mallory, err := clientlib.Connect(ctx, c.URL(), clientlib.WithUser("mallory"))
	if err != nil {
		t.Fatal(err)
	}
	defer mallory.Close()
	for what, refused := range map[string]struct{ err, want error }{
		"a directory":       {client.Truncate(ctx, "/dir", 0), syscall.EISDIR},
		"nothing":           {client.Truncate(ctx, "/none", 0), fs.ErrNotExist},
		"a negative size":   {client.Truncate(ctx, "/f", -1), fs.ErrInvalid},
		"too large a size":  {f.Truncate(ctx, gfs.MaxFileBytes+1), fs.ErrInvalid},
		"a relative path":   {client.Truncate(ctx, "f", 1), fs.ErrInvalid},
		"another's file":    {mallory.Truncate(ctx, "/f", 1), fs.ErrPermission},
		"a file to be read": {read.Truncate(ctx, 1), fs.ErrPermission},
	} {
		var path *fs.PathError
		if !errors.Is(refused.err, refused.want) || !errors.As(refused.err, &path) || path.Op != "truncate" {
			t.Errorf("%s: %v", what, refused.err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(ctx, 1); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("a closed file: %v", err)
	}
}

// TestTruncatedFilesSurviveARestart stops everything between the truncation and what comes after it.
func TestTruncatedFilesSurviveARestart(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	content := bytes.Repeat([]byte("0123456789abcdef"), 100_000)
	sizes := map[string]int64{"/cut": 777_777, "/grown": gfs.ChunkSize + 5, "/empty": 0}
	expect := func(t *testing.T, c *clustertest.Cluster) {
		for name, size := range sizes {
			want := make([]byte, size)
			copy(want, content)
			f, err := c.Client().Open(ctx, name)
			if err != nil {
				t.Fatal(err)
			}
			expectFile(ctx, t, c, f, want)
			f.Close()
		}
	}
	t.Run("before", func(t *testing.T) {
		c := clustertest.Start(t, clustertest.WithDir(dir))
		for name, size := range sizes {
			if err := c.Client().WriteFile(ctx, name, content, 0o644); err != nil {
				t.Fatal(err)
			}
			if err := c.Client().Truncate(ctx, name, size); err != nil {
				t.Fatal(err)
			}
		}
		expect(t, c)
	})
	t.Run("after", func(t *testing.T) {
		c := clustertest.Start(t, clustertest.WithDir(dir))
		expect(t, c)
		f, err := c.Client().OpenFile(ctx, "/cut", os.O_RDWR|os.O_APPEND)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if offset, err := f.Append(ctx, []byte("at the end")); err != nil || offset != sizes["/cut"] {
			t.Errorf("an append goes to %d, %v", offset, err)
		}
		if err := f.Truncate(ctx, sizes["/cut"]); err != nil {
			t.Fatal(err)
		}
		expect(t, c)
	})
}

// TestAppendsFollowTheEndBack appends through Files that know a chunk which is cut away.
func TestAppendsFollowTheEndBack(t *testing.T) {
	c := clustertest.Start(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for name, size := range map[string]int64{"/f": 100, "/g": 0} {
		f := mustCreate(ctx, t, c.Client(), name)
		other, err := c.Client().OpenFile(ctx, name, os.O_RDWR|os.O_APPEND)
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		if _, err := f.WriteAt([]byte("far away"), 2*gfs.ChunkSize); err != nil {
			t.Fatal(err)
		}
		end := 2*gfs.ChunkSize + int64(len("far away"))
		for _, a := range []*clientlib.File{f, other} {
			if at, err := a.Append(ctx, []byte("record")); err != nil || at != end {
				t.Fatalf("an append goes to %d, %v, want %d", at, err, end)
			}
			end += int64(len("record"))
		}
		// One chunk less than they know, so that theirs is the next one to be made.
		for _, cut := range []int64{gfs.ChunkSize + 1, size} {
			if err := f.Truncate(ctx, cut); err != nil {
				t.Fatal(err)
			}
			for _, a := range []*clientlib.File{f, other} {
				if at, err := a.Append(ctx, []byte("record")); err != nil || at != cut {
					t.Fatalf("after a truncation an append goes to %d, %v, want %d", at, err, cut)
				}
				cut += int64(len("record"))
			}
		}
	}
}
