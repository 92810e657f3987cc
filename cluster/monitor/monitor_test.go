package monitor_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"

	"github.com/cairnfs/cairn/chunkserver"
	"github.com/cairnfs/cairn/cluster"
	"github.com/cairnfs/cairn/cluster/monitor"
	"github.com/cairnfs/cairn/master"
)

func quiet() *logrus.Entry {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return logrus.NewEntry(log)
}

func get(ctx context.Context, t *testing.T, url string) (int, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	answer, err := transport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(body)
}

func TestMetricsAndHealth(t *testing.T) {
	defer goleak.VerifyNone(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := cluster.Start(ctx, cluster.Config{Dir: t.TempDir(), Chunkservers: 3})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}()
	s, err := monitor.Serve(monitor.Config{Listen: "127.0.0.1:0", Masters: c.Masters, Chunkservers: c.Chunkservers, Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	client, err := c.Connect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := client.WriteFile(ctx, "/f", make([]byte, 12345), 0o644); err != nil {
		t.Error(err)
	}
	if _, err := client.ReadFile(ctx, "/f"); err != nil {
		t.Error(err)
	}
	if err := client.Close(); err != nil {
		t.Error(err)
	}
	status, text := get(ctx, t, s.URL()+"/metrics")
	if status != http.StatusOK {
		t.Fatalf("metrics: status %d: %s", status, text)
	}
	for _, want := range []string{
		"# TYPE cairn_master_requests_total counter\n", "# TYPE cairn_master_files gauge\n", `cairn_master_files{master="m1"} 1` + "\n",
		`cairn_master_chunkservers_up{master="m1"} 3` + "\n", "# TYPE cairn_chunkserver_read_bytes_total counter\n",
		`cairn_chunkserver_mutation_bytes_total{server="` + string(c.ServerID(0)) + `"}`, "go_goroutines ", "process_cpu_seconds_total ",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("metrics lack %q", want)
		}
	}
	if got := strings.Count(text, "} 12345\n"); got < 2 {
		t.Errorf("12345 bytes were written and read, but %d counters say so:\n%s", got, text)
	}
	if status, text := get(ctx, t, s.URL()+"/healthz"); status != http.StatusOK || !strings.Contains(text, "3 of 3 chunkservers are up") {
		t.Errorf("healthz: status %d: %s", status, text)
	}
	if status, _ := get(ctx, t, s.URL()+"/"); status != http.StatusNotFound {
		t.Errorf("another path: status %d", status)
	}
}

// A chunkserver that hears no master says so.
func TestHealthWithoutAMaster(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := cluster.Start(ctx, cluster.Config{Dir: t.TempDir(), Chunkservers: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}()
	s, err := monitor.Serve(monitor.Config{Listen: "127.0.0.1:0", Masters: func() []*master.Master { return nil }, Chunkservers: c.Chunkservers, Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	if err := c.StopMaster(); err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for status, text := get(ctx, t, s.URL()+"/healthz"); status != http.StatusServiceUnavailable; status, text = get(ctx, t, s.URL()+"/healthz") {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("healthz still says %d: %s", status, text)
		}
	}
}

func TestListenIsRefused(t *testing.T) {
	if _, err := monitor.Serve(monitor.Config{Listen: "0.0.0.0:0", Log: quiet()}); err == nil || !strings.Contains(err.Error(), "--insecure") {
		t.Errorf("beyond loopback: %v", err)
	}
	s, err := monitor.Serve(monitor.Config{Listen: "127.0.0.1:0", Chunkservers: func() []*chunkserver.Chunkserver { return nil }, Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := monitor.Serve(monitor.Config{Listen: strings.TrimPrefix(s.URL(), "http://"), Log: quiet()}); err == nil || !strings.Contains(err.Error(), "--http") {
		t.Errorf("a taken address: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
