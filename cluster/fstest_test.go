package cluster_test

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"testing"
	"testing/fstest"
	"testing/iotest"

	"github.com/cairnfs/cairn/cluster/clustertest"
	"github.com/cairnfs/cairn/messages/gfs"
)

// TestTheStandardSuites runs those of the standard library on files of several sizes, around those of blocks and pieces,
// while their chunks are open and when they are closed.
func TestTheStandardSuites(t *testing.T) {
	c := clustertest.Start(t)
	client := c.Client()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := client.MkdirAll(ctx, "/dir/below", 0o755); err != nil {
		t.Fatal(err)
	}
	var names []string
	contents := map[string][]byte{}
	for i, size := range []int{0, 1, 100, 3000, gfs.BlockSize - 1, gfs.BlockSize, gfs.BlockSize + 1, gfs.StreamPieceBytes + 17} {
		name, data := fmt.Sprintf("dir/%d", size), make([]byte, size)
		if i%2 == 0 {
			name = fmt.Sprintf("dir/below/%d", size)
		}
		for at := range data {
			data[at] = byte(at/100 + i)
		}
		if err := client.WriteFile(ctx, "/"+name, data, 0o644); err != nil {
			t.Fatal(err)
		}
		names, contents[name] = append(names, name), data
	}
	for _, closed := range []bool{false, true} {
		for _, name := range names {
			data := contents[name]
			if closed { // a truncation to the length that it has closes a file's last chunk
				if err := client.Truncate(ctx, "/"+name, int64(len(data))); err != nil {
					t.Fatal(err)
				}
			}
			f, err := client.Open(ctx, "/"+name)
			if err != nil {
				t.Fatal(err)
			}
			var reader io.Reader = f.WithContext(ctx)
			if len(data) > 3000 { // of an io.ReaderAt the suite reads every byte by itself
				reader = struct{ io.ReadSeeker }{f.WithContext(ctx)}
			}
			if err := iotest.TestReader(reader, data); err != nil {
				t.Errorf("closed %t, %s: %v", closed, name, err)
			}
			if err := f.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	for name, data := range contents { // the suite for file systems hands on what is an io.ReaderAt
		if len(data) > 3000 {
			if err := client.Remove(ctx, "/"+name); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := fstest.TestFS(client.FS(ctx), names[:4]...); err != nil {
		t.Error(err)
	}
	sub, err := fs.Sub(client.FS(ctx), "dir")
	if err == nil {
		err = fstest.TestFS(sub, "1", "below/100")
	}
	if err != nil {
		t.Error(err)
	}
}
