package chaos_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/cairnfs/cairn/clientlib"
	"github.com/cairnfs/cairn/cluster"
	"github.com/cairnfs/cairn/cluster/faults"
	"github.com/cairnfs/cairn/cluster/processes"
	"github.com/cairnfs/cairn/messages/gfs"
)

// startTwo starts a cluster of two chunkservers, each with a proxy between it and NATS. Closed hears of the first chunk that is
// closed.
func startTwo(t *testing.T, ctx context.Context) (parts *processes.Cluster, proxies map[string]*faults.Proxy, closed <-chan struct{}) {
	t.Helper()
	binary, err := processes.Build(ctx, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	if err := listener.Close(); err != nil { // free again for NATS
		t.Fatal(err)
	}
	proxies = map[string]*faults.Proxy{}
	said := &lookout{text: []byte("msg=chunk.closed"), seen: make(chan struct{}, 1)}
	parts, err = processes.StartCluster(ctx, processes.Config{
		Binary: binary, Dir: t.TempDir(), Chunkservers: 2, Racks: 1, Log: said, NATS: address,
		Chunkserver: func(name string) ([]string, error) {
			proxy, err := faults.NewProxy(address)
			if err != nil {
				return nil, err
			}
			proxies[name] = proxy
			return []string{"--nats", "nats://" + proxy.Addr()}, nil
		},
	})
	t.Cleanup(func() {
		var failed error
		if parts != nil {
			failed = parts.Close()
		}
		for _, proxy := range proxies {
			failed = errors.Join(failed, proxy.Close())
		}
		if failed != nil {
			t.Error(failed)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return parts, proxies, said.seen
}

// Of a chunk's two members one is cut off from NATS alone: whoever appends then waits for neither its heartbeats to be missed
// nor for lease.Grace, and the bytes are at both. Nor does it matter when it can be heard again.
func TestOneOfTwoMembersIsCutOffFromNATS(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	t.Setenv("CAIRN_LOG_LEVEL", "debug")
	parts, proxies, closed := startTwo(t, ctx)
	client, err := clientlib.Connect(ctx, parts.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	}()
	if err := cluster.WaitChunkservers(ctx, client, 2); err != nil {
		t.Fatal(err)
	}
	f, err := client.Create(ctx, "/log", clientlib.WithReplicas(2))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}()
	appendOne := func() {
		t.Helper()
		began := time.Now()
		if _, err := f.Append(ctx, []byte("record")); err != nil {
			t.Fatal(err)
		}
		took := time.Since(began)
		if t.Logf("appended in %v", took); took > 2*time.Second {
			t.Errorf("an append took %v", took)
		}
	}
	located := func() []clientlib.Server {
		t.Helper()
		found, err := client.Locations(ctx, "/log", 0, gfs.ChunkSize)
		if err != nil || len(found) != 1 {
			t.Fatalf("located %v, %v", found, err)
		}
		return found[0].Servers
	}
	appendOne()
	select {
	case <-closed: // the next append needs a configuration
	case <-ctx.Done():
		t.Fatal("the chunk was never closed")
	}
	cut := proxies[parts.Server(string(located()[0].ID))]
	cut.Set(faults.Silence)
	appendOne()
	appendOne()
	if servers := located(); len(servers) != 2 {
		t.Errorf("%v have the chunk after a moment without NATS", servers)
	}
	cut.Set(faults.None)
	appendOne()
}

// lookout tells once that a text was written.
type lookout struct {
	text []byte
	seen chan struct{}
}

func (l *lookout) Write(p []byte) (int, error) {
	if bytes.Contains(p, l.text) {
		select {
		case l.seen <- struct{}{}:
		default:
		}
	}
	return len(p), nil
}
