package chaos_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cairnfs/cairn/clientlib"
)

var bigBytes = flag.Int64("chaos.bytes", 256<<20, "the size of the file that is stored and fetched while chunkservers are killed")

// A chunkserver is killed in the middle of a put, and another one, the first being back, in the middle of a get: both
// commands finish, and the file is the same.
func TestAChunkserverIsKilledDuringPutAndGet(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	r := newRig(t, ctx, 1, 5)
	local := filepath.Join(t.TempDir(), "local")
	want := writeNoise(t, local, *bigBytes)

	victim := r.killAfter(ctx, "/big", *bigBytes/3, func(through func(io.Reader) io.Reader) error {
		f, err := os.Open(local)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }() // only read
		_, err = r.run(ctx, through(f), "put", "-", "/big")
		return err
	})
	if err := r.Start(ctx, victim); err != nil {
		t.Fatal(err)
	}
	r.waitReady(ctx)

	hash := sha256.New()
	r.killAfter(ctx, "/big", *bigBytes/3, func(through func(io.Reader) io.Reader) error {
		out, in := io.Pipe()
		done := make(chan error, 1)
		go func() {
			_, err := io.Copy(hash, through(out))
			out.CloseWithError(err)
			done <- err
		}()
		err := r.runTo(ctx, nil, in, "get", "/big", "-")
		in.CloseWithError(err)
		if copied := <-done; err == nil {
			err = copied
		}
		return err
	})
	if got := hash.Sum(nil); !bytes.Equal(got, want) {
		t.Errorf("%d bytes were stored and others came back", *bigBytes)
	}
}

// killAfter kills a chunkserver once some bytes went through the reader that work has it put in the way, and wants work to
// succeed in spite of it. The one is drawn from those that hold the chunk of the file where work is then, and returned.
func (r *rig) killAfter(ctx context.Context, name string, offset int64, work func(through func(io.Reader) io.Reader) error) string {
	r.t.Helper()
	var victim string
	reached, killed := make(chan struct{}), make(chan error, 1)
	go func() {
		select {
		case <-reached:
			var err error
			if victim, err = r.holder(ctx, name, offset); err == nil {
				err = r.Kill(victim)
			}
			killed <- err
		case <-ctx.Done():
			killed <- ctx.Err()
		}
	}()
	begin := time.Now()
	if err := work(func(from io.Reader) io.Reader { return &trigger{Reader: from, left: offset, reached: reached} }); err != nil {
		r.t.Fatal(err)
	}
	took := time.Since(begin).Round(time.Millisecond)
	if err := <-killed; err != nil {
		r.t.Fatal(err)
	}
	r.t.Logf("%s was killed meanwhile; done in %s", victim, took)
	return victim
}

// holder draws a chunkserver that holds the chunk at an offset, or the last chunk before it.
func (r *rig) holder(ctx context.Context, name string, offset int64) (server string, err error) {
	client, err := clientlib.Connect(ctx, r.URL())
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	locations, err := client.Locations(ctx, name, 0, offset)
	if err != nil {
		return "", err
	}
	if len(locations) == 0 {
		return "", fmt.Errorf("%s has no chunk yet", name)
	}
	servers := locations[len(locations)-1].Servers
	return r.Server(string(servers[r.random.IntN(len(servers))].ID)), nil
}

// trigger closes reached when some bytes were read.
type trigger struct {
	io.Reader
	left    int64
	reached chan struct{}
}

func (g *trigger) Read(p []byte) (int, error) {
	n, err := g.Reader.Read(p)
	if before := g.left; before > 0 {
		if g.left -= int64(n); g.left <= 0 {
			close(g.reached)
		}
	}
	return n, err
}

// writeNoise writes a file of bytes that no zeros or repeats can stand for, and returns its SHA-256.
func writeNoise(t *testing.T, name string, size int64) []byte {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	hash := sha256.New()
	var key [32]byte
	key[0] = byte(*seed)
	if _, err := io.CopyN(io.MultiWriter(f, hash), rand.NewChaCha8(key), size); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return hash.Sum(nil)
}
