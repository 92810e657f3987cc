package clientlib_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/cairnfs/cairn/clientlib"
	"github.com/cairnfs/cairn/clientlib/record"
	"github.com/cairnfs/cairn/cluster/clustertest"
	"github.com/cairnfs/cairn/messages/gfs"
)

// producer appends framed records to a file.
type producer struct {
	t    *testing.T
	file *clientlib.File
	*record.Writer
}

func produce(t *testing.T, client *clientlib.Client, name string) producer {
	t.Helper()
	file, err := client.OpenFile(t.Context(), name, os.O_RDWR|os.O_CREATE|os.O_APPEND)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	return producer{t, file, record.NewWriter(file)}
}

func (p producer) append(payload []byte) {
	p.t.Helper()
	if _, err := p.Append(p.t.Context(), payload); err != nil {
		p.t.Fatal(err)
	}
}

// followed is what one Tail handed out: the first bytes of each payload, and the error that ended it.
type followed struct {
	heads chan string
	err   chan error
}

const headBytes = 8

func follow(ctx context.Context, client *clientlib.Client, name string, from record.Position) followed {
	f := followed{make(chan string, 1000), make(chan error, 1)}
	go func() {
		for r, err := range client.Tail(ctx, name, from) {
			if err != nil {
				f.err <- err
				return
			}
			f.heads <- string(r.Payload[:min(headBytes, len(r.Payload))])
		}
		f.err <- nil
	}()
	return f
}

// expect waits for the next records.
func (f followed) expect(t *testing.T, heads ...string) {
	t.Helper()
	for _, want := range heads {
		select {
		case got := <-f.heads:
			if got != want {
				t.Fatalf("got %q, want %q", got, want)
			}
		case err := <-f.err:
			t.Fatalf("ended before %q: %v", want, err)
		case <-time.After(30 * time.Second):
			t.Fatalf("%q did not come", want)
		}
	}
}

func (f followed) end(t *testing.T) error {
	t.Helper()
	select {
	case err := <-f.err:
		if len(f.heads) > 0 {
			t.Errorf("%d records too many", len(f.heads))
		}
		return err
	case <-time.After(30 * time.Second):
		t.Fatal("the iteration did not end")
		return nil
	}
}

func TestTailFollowsAFileAcrossChunksFaultsAndRenames(t *testing.T) {
	cluster := clustertest.Start(t)
	client := cluster.Client()
	p := produce(t, client, "/log")
	p.append([]byte("before-1"))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	f := follow(ctx, client, "/log", record.Position{})
	f.expect(t, "before-1")

	for i := range 6 { // more than a chunk
		p.append(append(fmt.Appendf(nil, "large--%d", i), bytes.Repeat([]byte{byte(i)}, gfs.ChunkSize/5)...))
		f.expect(t, fmt.Sprintf("large--%d", i))
	}
	if info, err := client.Stat(t.Context(), "/log"); err != nil || info.Size() <= gfs.ChunkSize {
		t.Fatalf("the file ends in its first chunk: %v, %v", info, err)
	}
	if err := client.Rename(t.Context(), "/log", "/renamed"); err != nil {
		t.Fatal(err)
	}
	if err := cluster.StopChunkserver(0); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		p.append(fmt.Appendf(nil, "after--%d", i))
		f.expect(t, fmt.Sprintf("after--%d", i))
	}
	if err := cluster.StopMaster(); err != nil {
		t.Fatal(err)
	}
	if err := cluster.StartMaster(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.append([]byte("the last"))
	f.expect(t, "the last")
	cancel()
	if err := f.end(t); err != context.Canceled {
		t.Errorf("ended with %v, want %v", err, context.Canceled)
	}
}

func TestTailFromAPosition(t *testing.T) {
	client := clustertest.Start(t).Client()
	p := produce(t, client, "/log")
	p.append([]byte("one"))
	p.append([]byte("two"))
	reader := record.NewReader(p.file)
	var read []string
	for r, err := range reader.Records(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		read = append(read, string(r.Payload))
	}
	if !slices.Equal(read, []string{"one", "two"}) {
		t.Fatalf("read %q", read)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	f := follow(ctx, client, "/log", reader.Position())
	p.append([]byte("three"))
	f.expect(t, "three")
	cancel()
	if err := f.end(t); err != context.Canceled {
		t.Errorf("ended with %v", err)
	}

	for r, err := range client.Tail(t.Context(), "/log", record.Position{}) { // who stops early gets no error
		if err != nil || string(r.Payload) != "one" {
			t.Errorf("the first record: %q, %v", r.Payload, err)
		}
		break
	}
}

func TestTailEndsWhereWaitingDoesNotHelp(t *testing.T) {
	cluster := clustertest.Start(t)
	client := cluster.Client()
	if err := follow(t.Context(), client, "/missing", record.Position{}).end(t); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
	p := produce(t, client, "/log")
	p.append([]byte("one"))
	reader := cluster.Client()
	f := follow(t.Context(), reader, "/log", record.Position{})
	f.expect(t, "one")
	if err := reader.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.end(t); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("a closed client: %v", err)
	}
	g := follow(t.Context(), client, "/log", record.Position{})
	g.expect(t, "one")
	if err := client.RemoveNow(t.Context(), "/log"); err != nil {
		t.Fatal(err)
	}
	if err := g.end(t); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that was dropped: %v", err)
	}
}
