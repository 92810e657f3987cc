package monitor

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/sirupsen/logrus"

	"github.com/cairnfs/cairn/chunkserver"
	"github.com/cairnfs/cairn/cluster"
	"github.com/cairnfs/cairn/master"
)

const (
	// askPatience bounds the wait for a master's actors in one request.
	askPatience = 2 * time.Second
	// requestPatience bounds each part of a request, stopPatience the end of those that are under way.
	requestPatience = 10 * time.Second
	stopPatience    = time.Second
	maxHeaderBytes  = 16 << 10
	maxScrapes      = 4 // at a time
)

// Config says what is told, and where.
type Config struct {
	Listen   string // HOST:PORT; port 0 picks a free one
	Insecure bool   // allow Listen beyond loopback
	// Parts are the parts of the process that run now; it is called for each request, from any goroutine. Nil: none.
	Masters      func() []*master.Master
	Chunkservers func() []*chunkserver.Chunkserver
	Log          *logrus.Entry
}

// Server answers until Close.
type Server struct {
	http     http.Server
	listener net.Listener
	served   chan struct{}
}

// Serve listens and answers. Errors are those of the listener, and gfs.CodeInvalid for an address beyond loopback without
// Insecure.
func Serve(cfg Config) (*Server, error) {
	if _, _, err := cluster.CheckListen(cfg.Listen, cfg.Insecure); err != nil {
		return nil, err
	}
	if cfg.Masters == nil {
		cfg.Masters = func() []*master.Master { return nil }
	}
	if cfg.Chunkservers == nil {
		cfg.Chunkservers = func() []*chunkserver.Chunkserver { return nil }
	}
	registry := prometheus.NewRegistry()
	for _, c := range []prometheus.Collector{
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		masters(cfg.Masters), chunkservers(cfg.Chunkservers),
	} {
		if err := registry.Register(c); err != nil {
			return nil, fmt.Errorf("metrics: %w", err)
		}
	}
	listener, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen for HTTP: %w: choose another address with --http, port 0 picks a free one", err)
	}
	warn := log.New(warnings{cfg.Log}, "", 0)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{
		ErrorLog: warn, ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: maxScrapes, Timeout: requestPatience,
	}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) { healthz(cfg, w, r) })
	s := &Server{listener: listener, served: make(chan struct{}), http: http.Server{
		Handler: mux, ErrorLog: warn, MaxHeaderBytes: maxHeaderBytes,
		ReadTimeout: requestPatience, WriteTimeout: 2 * requestPatience, IdleTimeout: time.Minute,
	}}
	go func() {
		defer close(s.served)
		if err := s.http.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			cfg.Log.WithError(err).Warn("metrics are no longer served")
		}
	}()
	return s, nil
}

// URL is where the server is reached: http://HOST:PORT.
func (s *Server) URL() string { return "http://" + s.listener.Addr().String() }

// Close ends the server; requests that are under way get a second.
func (s *Server) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopPatience)
	defer cancel()
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = s.http.Close()
	}
	<-s.served
	return err
}

// healthz says of each part whether it can do its work.
func healthz(cfg Config, w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), askPatience)
	defer cancel()
	status := http.StatusOK
	var said []string
	say := func(ok bool, format string, args ...any) {
		if !ok {
			status = http.StatusServiceUnavailable
		}
		said = append(said, fmt.Sprintf(format, args...))
	}
	for _, m := range cfg.Masters() {
		if metrics, err := m.Metrics(ctx); err != nil {
			say(false, "a master does not answer: %v", err)
		} else if metrics.Values["acting"] == 1 {
			say(true, "master %s acts in epoch %.0f, %.0f of %.0f chunkservers are up", metrics.Id, metrics.Values["epoch"],
				metrics.Values["chunkservers_up"], metrics.Values["chunkservers"])
		} else {
			say(true, "master %s stands by", metrics.Id)
		}
	}
	for _, cs := range cfg.Chunkservers() {
		if m := cs.Metrics(); m.Orphaned {
			say(false, "chunkserver %s hears no master: is NATS up, and a master?", m.Server)
		} else {
			say(true, "chunkserver %s serves %d chunks", m.Server, m.Chunks)
		}
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	fmt.Fprintln(w, strings.Join(said, "\n"))
}

// warnings sends what net/http has to say to logrus.
type warnings struct{ log *logrus.Entry }

func (w warnings) Write(p []byte) (int, error) {
	w.log.Warn(strings.TrimSpace(string(p)))
	return len(p), nil
}
