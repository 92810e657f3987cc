package clientlib_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"testing"
	"time"

	"github.com/cairnfs/cairn/cluster/clustertest"
	"github.com/cairnfs/cairn/messages"
)

func TestServersAndMasters(t *testing.T) {
	cluster := clustertest.Start(t)
	client := cluster.Client()
	if err := client.WriteFile(t.Context(), "/f", []byte("hello"), 0o644); err != nil {
		t.Fatal(err)
	}
	stopped := cluster.ServerID(0)
	if err := cluster.StopChunkserver(0); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		servers, err := client.Servers(ctx)
		if err != nil {
			t.Fatal(err)
		}
		known := true // that it stopped, and that alone
		for i, s := range servers {
			known = known && s.Up == (s.ID != stopped)
			if i > 0 && servers[i-1].ID >= s.ID || s.Addr == "" || s.Rack == "" || s.CapacityBytes <= 0 {
				t.Errorf("%+v", s)
			}
		}
		if len(servers) != 4 {
			t.Fatalf("%d servers", len(servers))
		}
		if known {
			break
		}
		<-time.After(20 * time.Millisecond)
	}
	masters, err := client.Masters(ctx)
	if err != nil || len(masters) != 1 || masters[0].ID != "m1" || !masters[0].Acting || masters[0].Epoch != 1 || masters[0].Version == "" {
		t.Errorf("masters: %+v, %v", masters, err)
	}
}

func TestEventsAndMetricsArrive(t *testing.T) {
	cluster := clustertest.Start(t)
	client, reader := cluster.Client(), cluster.Client()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	seen := make(chan string, 1)
	ended := make(chan error, 2)
	go func() {
		for e, err := range reader.Events(ctx) {
			if err != nil {
				ended <- err
				return
			}
			if e.Kind == messages.EventFileCreated && time.Since(e.Time) < time.Minute {
				select {
				case seen <- e.Path:
				default:
				}
			}
		}
	}()
	for i := 0; ; i++ { // until the listener listens
		name := fmt.Sprintf("/file%d", i)
		if err := client.WriteFile(ctx, name, []byte("hello"), 0o644); err != nil {
			t.Fatal(err)
		}
		select {
		case path := <-seen:
			t.Logf("%s after %d files", path, i+1)
		default:
			continue
		}
		break
	}
	roles := map[string]bool{}
	for m, err := range reader.Metrics(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		counter := map[string]string{"master": "mutations_total", "chunkserver": "mutation_bytes_total"}[m.Role]
		if _, ok := m.Values[counter]; !ok || m.ID == "" {
			t.Errorf("no %s in %+v", counter, m)
		}
		if roles[m.Role] = true; len(roles) == 2 {
			break
		}
	}
	if err := reader.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, fs.ErrClosed) {
		t.Errorf("a closed client: %v", err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	for _, err := range client.Events(ctx) {
		if err != context.Canceled {
			t.Errorf("the context ended: %v", err)
		}
	}
}
