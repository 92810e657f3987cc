package cluster_test

import (
	"context"
	"os"
	"testing"

	"github.com/cairnfs/cairn/cluster/clustertest"
)

// An appender that has filled a chunk to its last byte knows that the next record belongs to the next chunk, unless the
// file has been truncated meanwhile: then it must not leave a hole.
func TestAppendAfterATruncationOfAFullChunk(t *testing.T) {
	c := clustertest.Start(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	client := c.Client()
	mustCreate(ctx, t, client, "/log")
	f, err := client.OpenFile(ctx, "/log", os.O_WRONLY|os.O_APPEND)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const length, each = 64 << 20, 8 << 20
	for offset := int64(0); offset < length; offset += each {
		if got, err := f.Append(ctx, make([]byte, each)); err != nil || got != offset {
			t.Fatalf("append at %d, want %d: %v", got, offset, err)
		}
	}
	if err := c.Client().Truncate(ctx, "/log", 10); err != nil {
		t.Fatal(err)
	}
	for i := range int64(3) {
		if got, err := f.Append(ctx, []byte("x")); err != nil || got != 10+i {
			t.Fatalf("append at %d, want %d: %v", got, 10+i, err)
		}
	}
	if info, err := client.Stat(ctx, "/log"); err != nil || info.Size() != 13 {
		t.Fatalf("stat: %v, %v", info, err)
	}
}
