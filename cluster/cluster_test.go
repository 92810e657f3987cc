package cluster_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/cairnfs/cairn/clientlib"
	"github.com/cairnfs/cairn/clientlib/record"
	"github.com/cairnfs/cairn/cluster/clustertest"
)

// patience bounds each test's calls; none comes near it.
const patience = time.Minute

func TestEightProducersAppendToOneFile(t *testing.T) {
	c := clustertest.Start(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	const producers, records = 8, 10_000
	client := c.Client()
	mustCreate(ctx, t, client, "/records")
	var mu sync.Mutex
	acknowledged := map[string]int64{} // payload → offset
	var wg sync.WaitGroup
	for p := range producers {
		wg.Go(func() {
			own := c.Client()
			f, err := own.OpenFile(ctx, "/records", os.O_RDWR|os.O_APPEND)
			if err != nil {
				t.Error(err)
				return
			}
			var pending [records]*clientlib.Pending
			for i := range records {
				pending[i] = f.AppendAsync(ctx, fmt.Appendf(nil, "%02d %06d.", p, i))
			}
			for i := range records {
				offset, err := pending[i].Wait(ctx)
				if err != nil {
					t.Errorf("producer %d record %d: %v", p, i, err)
					return
				}
				mu.Lock()
				acknowledged[fmt.Sprintf("%02d %06d.", p, i)] = offset
				mu.Unlock()
			}
			if err := f.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(acknowledged) != producers*records {
		t.Fatalf("%d of %d records acknowledged", len(acknowledged), producers*records)
	}
	data, err := client.ReadFile(ctx, "/records")
	if err != nil {
		t.Fatal(err)
	}
	const length = len("00 000000.")
	if len(data) != length*producers*records {
		t.Errorf("the file has %d bytes, %d records of %d bytes were appended", len(data), producers*records, length)
	}
	for payload, offset := range acknowledged {
		if got := string(data[offset : offset+int64(length)]); got != payload {
			t.Fatalf("at offset %d is %q, acknowledged was %q", offset, got, payload)
		}
	}
}

func TestClosedAndOpenedAgain(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MiB
	t.Run("first", func(t *testing.T) {
		c := clustertest.Start(t, clustertest.WithDir(dir))
		client := c.Client()
		if err := client.MkdirAll(ctx, "/a/b", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := client.WriteFile(ctx, "/a/b/file", content, 0o640); err != nil {
			t.Fatal(err)
		}
		f := mustCreate(ctx, t, client, "/a/log")
		for i := range 100 {
			if _, err := f.Append(ctx, fmt.Appendf(nil, "%03d\n", i)); err != nil {
				t.Fatal(err)
			}
		}
	})
	for _, name := range []string{"second", "third"} {
		t.Run(name, func(t *testing.T) {
			c := clustertest.Start(t, clustertest.WithDir(dir))
			client := c.Client()
			if got, err := client.ReadFile(ctx, "/a/b/file"); err != nil || !bytes.Equal(got, content) {
				t.Fatalf("the file: %d bytes, %v", len(got), err)
			}
			info, err := client.Stat(ctx, "/a/b/file")
			if err != nil || info.Mode().Perm() != 0o640 || info.Size() != int64(len(content)) {
				t.Errorf("stat: %v, %v", info, err)
			}
			log, err := client.ReadFile(ctx, "/a/log")
			if err != nil || !strings.HasPrefix(string(log), "000\n001\n") {
				t.Fatalf("the log: %d bytes, %v", len(log), err)
			}
			// Writing goes on where it ended.
			f, err := client.OpenFile(ctx, "/a/log", os.O_RDWR|os.O_APPEND)
			if err != nil {
				t.Fatal(err)
			}
			if offset, err := f.Append(ctx, []byte(name+"\n")); err != nil || offset != int64(len(log)) {
				t.Errorf("an append after the restart: offset %d, want %d: %v", offset, len(log), err)
			}
			if err := f.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// Once a chunk is closed, a server that was away comes back with a good replica: each in turn may be missing.
func TestAReaderSurvivesTheLossOfAChunkserver(t *testing.T) {
	c := clustertest.Start(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	client := c.Client()
	closed := subscribe(t, c.URL(), "cairn.local.event.chunk.closed")
	content := bytes.Repeat([]byte("cairn!?\n"), 16<<20>>3)
	if err := client.WriteFile(ctx, "/file", content, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := closed.NextMsgWithContext(ctx); err != nil {
		t.Fatalf("the idle chunk was not closed: %v", err)
	}
	for i := range 4 {
		if err := c.StopChunkserver(i); err != nil {
			t.Fatal(err)
		}
		got, err := client.ReadFile(ctx, "/file")
		if err != nil || !bytes.Equal(got, content) {
			t.Fatalf("without chunkserver %d: %d bytes, %v", i, len(got), err)
		}
		if err := c.StartChunkserver(ctx, i); err != nil {
			t.Fatal(err)
		}
		if err := c.WaitReady(ctx); err != nil {
			t.Fatal(err)
		}
	}
}

// Of an open chunk's three members two are lost, one after the other; the last one goes on.
func TestAProducerSurvivesTheLossOfMembers(t *testing.T) {
	c := clustertest.Start(t, clustertest.WithChunkservers(3))
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	client := c.Client()
	f := mustCreate(ctx, t, client, "/log")
	w := record.NewWriter(f)
	n := 0
	appendSome := func() {
		t.Helper()
		for range 50 {
			if _, err := w.Append(ctx, fmt.Appendf(nil, "%d", n)); err != nil {
				t.Fatalf("record %d: %v", n, err)
			}
			n++
		}
	}
	appendSome()
	for i := range 2 {
		if err := c.StopChunkserver(i); err != nil {
			t.Fatal(err)
		}
		appendSome()
	}
	want := 0
	for r, err := range record.NewReader(f).Records(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		if string(r.Payload) != fmt.Sprint(want) {
			t.Fatalf("record %d is %q", want, r.Payload)
		}
		want++
	}
	if want != n {
		t.Errorf("%d records of %d", want, n)
	}
}

// A reader that asks beyond the end of a growing file has seen nothing there: it goes on where the file does.
func TestAReaderAtTheEndOfAGrowingFile(t *testing.T) {
	c := clustertest.Start(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	client := c.Client()
	w, r := mustCreate(ctx, t, client, "/log"), (*clientlib.File)(nil)
	buf := make([]byte, 4<<20)
	for i := range 5 {
		if _, err := w.Append(ctx, []byte("0123456789")); err != nil {
			t.Fatal(err)
		}
		if r == nil {
			var err error
			if r, err = client.Open(ctx, "/log"); err != nil {
				t.Fatal(err)
			}
			defer r.Close()
		}
		want := 10 * (i + 1)
		if n, err := r.WithContext(ctx).ReadAt(buf, 0); n != want || !errors.Is(err, io.EOF) {
			t.Fatalf("after append %d: %d bytes, %v; want %d and the end", i, n, err, want)
		}
		if n, err := r.WithContext(ctx).ReadAt(buf[:10], 3<<20); n != 0 || !errors.Is(err, io.EOF) {
			t.Fatalf("beyond the end: %d bytes, %v", n, err)
		}
	}
}

func TestTooFewChunkserversIsSaidInNumbers(t *testing.T) {
	c := clustertest.Start(t, clustertest.WithChunkservers(2))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	client := c.Client(clientlib.WithTimeout(2 * time.Second))
	err := client.WriteFile(ctx, "/f", []byte("x"), 0o644)
	if !errors.Is(err, clientlib.ErrUnavailable) || !strings.Contains(err.Error(), "2 chunkservers") || !strings.Contains(err.Error(), "3 replicas") {
		t.Errorf("a file of three replicas on two chunkservers: %v", err)
	}
	f, err := client.Create(ctx, "/g", clientlib.WithReplicas(2))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte("x")); err != nil {
		t.Error(err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}

func TestHeartbeatsAndEventsAreOnTheBus(t *testing.T) {
	c := clustertest.Start(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	heartbeats := subscribe(t, c.URL(), "cairn.*.heartbeat.>")
	events := subscribe(t, c.URL(), "cairn.*.event.>")
	metrics := subscribe(t, c.URL(), "cairn.*.metrics.>")
	if err := c.Client().WriteFile(ctx, "/f", []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := heartbeats.NextMsgWithContext(ctx); err != nil {
		t.Errorf("no heartbeat: %v", err)
	}
	seen := map[string]bool{}
	for !seen["file.created"] || !seen["lease.granted"] {
		m, err := events.NextMsgWithContext(ctx)
		if err != nil {
			t.Fatalf("of the events only %v: %v", seen, err)
		}
		var e struct {
			Kind string `json:"kind"`
		}
		if err := json.Unmarshal(m.Data, &e); err != nil || e.Kind == "" {
			t.Fatalf("an event that is no JSON: %v: %.200s", err, m.Data)
		}
		seen[e.Kind] = true
	}
	if m, err := metrics.NextMsgWithContext(ctx); err != nil || !json.Valid(m.Data) {
		t.Errorf("metrics: %v", err)
	}
}

func TestGarbageHarmsNothingElse(t *testing.T) {
	c := clustertest.Start(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	client := c.Client()
	content := bytes.Repeat([]byte("x"), 1<<20)
	if err := client.WriteFile(ctx, "/f", content, 0o644); err != nil {
		t.Fatal(err)
	}
	nc, err := nats.Connect(c.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	garbage := bytes.Repeat([]byte{0xff, 0x13, 0x00, 0x7f}, 1024)
	for _, op := range []string{"mutate", "stat", "list", "statfs", "locate", "lease", "report", "close", "servers", "inventory", "masterstate", "nonsense"} {
		if err := nc.PublishRequest("cairn.local.master."+op, nats.NewInbox(), garbage); err != nil {
			t.Fatal(err)
		}
	}
	if err := nc.Publish("cairn.local.heartbeat.0123456789abcdef", garbage); err != nil {
		t.Fatal(err)
	}
	locations, err := client.Locations(ctx, "/f", 0, 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range locations[0].Servers {
		for _, command := range []string{"create", "prepare", "grant", "delete", "report"} {
			if err := nc.PublishRequest("cairn.local.cs."+string(s.ID)+"."+command, nats.NewInbox(), garbage); err != nil {
				t.Fatal(err)
			}
		}
		conn, err := net.Dial("tcp", s.Addr)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(patience))
		if _, err := conn.Write(garbage); err != nil {
			t.Logf("the port closed while garbage was sent: %v", err)
		}
		if _, err := io.ReadAll(conn); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Logf("the port closed: %v", err)
		} else if err != nil {
			t.Errorf("the data port of %s keeps a connection that speaks garbage", s.ID)
		}
		_ = conn.Close()
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	if got, err := client.ReadFile(ctx, "/f"); err != nil || !bytes.Equal(got, content) {
		t.Errorf("after the garbage: %d bytes, %v", len(got), err)
	}
	if err := client.WriteFile(ctx, "/g", content, 0o644); err != nil {
		t.Errorf("after the garbage: %v", err)
	}
}

func TestCallsEndWithTheirContext(t *testing.T) {
	c := clustertest.Start(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	client := c.Client(clientlib.WithTimeout(time.Second)) // what Close, which has no context, waits for
	f := mustCreate(ctx, t, client, "/f")
	if _, err := f.Append(ctx, []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := c.StopMaster(); err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		if err := c.StopChunkserver(i); err != nil {
			t.Fatal(err)
		}
	}
	const short = 300 * time.Millisecond
	for name, call := range map[string]func(context.Context) error{
		"stat":   func(ctx context.Context) error { _, err := client.Stat(ctx, "/f"); return err },
		"create": func(ctx context.Context) error { _, err := client.Create(ctx, "/g"); return err },
		"append": func(ctx context.Context) error { _, err := f.Append(ctx, []byte("y")); return err },
		"read":   func(ctx context.Context) error { _, err := client.ReadFile(ctx, "/f"); return err },
		"list": func(ctx context.Context) error {
			for _, err := range client.ReadDir(ctx, "/") {
				return err
			}
			return nil
		},
	} {
		begin := time.Now()
		bounded, cancel := context.WithTimeout(ctx, short)
		err := call(bounded)
		cancel()
		if err == nil || time.Since(begin) > 10*short {
			t.Errorf("%s without a cluster: %v after %s", name, err, time.Since(begin))
		}
	}
}

func mustCreate(ctx context.Context, t testing.TB, client *clientlib.Client, name string) *clientlib.File {
	t.Helper()
	f, err := client.Create(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// subscribe listens on the bus as any NATS client can.
func subscribe(t testing.TB, url, subject string) *nats.Subscription {
	t.Helper()
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	sub, err := nc.SubscribeSync(subject)
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	return sub
}
