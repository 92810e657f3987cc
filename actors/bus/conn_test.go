package bus_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/sirupsen/logrus"

	"github.com/cairnfs/cairn/actors/bus"
	"github.com/cairnfs/cairn/messages/gfs"
)

func TestConnectWithoutServer(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = bus.Connect(bus.Config{URL: "nats://user:secret@" + address, Log: quietLog()})
	if !errors.Is(err, gfs.ErrUnavailable) || !strings.Contains(err.Error(), address) ||
		!strings.Contains(err.Error(), "cairn nats") || strings.Contains(err.Error(), "secret") {
		t.Errorf("got %v", err)
	}
	if _, err := bus.Connect(bus.Config{URL: "nats://127.0.0.1:port", Log: quietLog()}); gfs.CodeOf(err) != gfs.CodeInvalid {
		t.Errorf("no URL: %v", err)
	}
}

func TestCustomDialerIsBounded(t *testing.T) {
	dialed := make(chan time.Duration, 2)
	began := time.Now()
	_, err := bus.Connect(bus.Config{URL: "127.0.0.1:1,127.0.0.1:2", Log: quietLog(),
		Dialer: func(ctx context.Context, _, _ string) (net.Conn, error) {
			deadline, _ := ctx.Deadline()
			dialed <- time.Until(deadline)
			return nil, errors.New("no route")
		}})
	if !errors.Is(err, gfs.ErrUnavailable) || time.Since(began) > bus.ConnectTimeout {
		t.Errorf("got %v after %v", err, time.Since(began))
	}
	if total := <-dialed + <-dialed; total > bus.ConnectTimeout {
		t.Errorf("two servers get %v together", total)
	}
}

func TestCredentialsRefused(t *testing.T) {
	s := startServer(t, &server.Options{Host: "127.0.0.1", Port: -1, Authorization: "right"})
	_, err := bus.Connect(bus.Config{URL: strings.Replace(s.ClientURL(), "nats://", "nats://wrong@", 1), Log: quietLog()})
	if gfs.CodeOf(err) != gfs.CodePermission {
		t.Errorf("got %v", err)
	}
	missing := filepath.Join(t.TempDir(), "missing.creds")
	_, err = bus.Connect(bus.Config{URL: s.ClientURL(), CredentialsFile: missing, Log: quietLog()})
	if gfs.CodeOf(err) != gfs.CodeInvalid || !strings.Contains(err.Error(), missing) {
		t.Errorf("got %v", err)
	}
}

// A server that takes connections and says nothing holds nobody up who sends.
func TestNobodyWaitsForAServerThatAcceptsAndSaysNothing(t *testing.T) {
	s := startServer(t, &server.Options{Host: "127.0.0.1", Port: -1})
	first := make(chan net.Conn, 1)
	again := make(chan struct{})
	over := make(chan struct{})
	var once sync.Once
	conn, err := bus.Connect(bus.Config{URL: s.ClientURL(), Log: quietLog(),
		Dialer: func(ctx context.Context, network, address string) (net.Conn, error) {
			connection, err := new(net.Dialer).DialContext(ctx, network, address)
			select {
			case first <- connection:
				return connection, err
			default:
			}
			connection.Close()
			ours, silent := net.Pipe()
			once.Do(func() { close(again) })
			go func() {
				<-over
				silent.Close()
			}()
			return ours, nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	defer close(over)
	connection := <-first
	first <- connection // it was the only one
	connection.Close()
	<-again
	began := time.Now()
	heard := make(chan error, 1)
	bus.AskAsync(conn, bus.Call{Subject: "echo", Request: text("")}, func(a bus.Answer) bool {
		heard <- a.Err
		return true
	})
	err = bus.Publish(conn, "x", text(""))
	if asked := <-heard; !errors.Is(asked, gfs.ErrUnavailable) || !errors.Is(err, gfs.ErrUnavailable) {
		t.Errorf("asked: %v, published: %v", asked, err)
	}
	if took := time.Since(began); took > bus.ConnectTimeout/5 {
		t.Errorf("that took %v", took)
	}
	began = time.Now()
	conn.Close()
	if took := time.Since(began); took > bus.ConnectTimeout/5 {
		t.Errorf("Close took %v", took)
	}
}

func TestServerGoesAndComesBack(t *testing.T) {
	first := startServer(t, &server.Options{Host: "127.0.0.1", Port: -1})
	var log bytes.Buffer
	logger := logrus.New()
	logger.SetOutput(&log) // logrus serializes writes; read after Close
	conn, err := bus.Connect(bus.Config{URL: first.ClientURL(), Log: logrus.NewEntry(logger)})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	serve(t, conn, bus.ServiceConfig{}, echo("echo"))
	port := first.Addr().(*net.TCPAddr).Port
	status := conn.NATS().StatusChanged(nats.RECONNECTING, nats.CONNECTED)
	first.Shutdown()
	first.WaitForShutdown()
	if s := <-status; s != nats.RECONNECTING {
		t.Fatalf("status %v", s)
	}
	err = bus.Ask(t.Context(), conn, "echo", text(""), text(""))
	if !errors.Is(err, gfs.ErrUnavailable) || !strings.Contains(err.Error(), "cairn nats") {
		t.Errorf("while away: %v", err)
	}
	if err := bus.Publish(conn, "x", text("")); !errors.Is(err, gfs.ErrUnavailable) {
		t.Errorf("publish while away: %v", err)
	}
	startServer(t, &server.Options{Host: "127.0.0.1", Port: port})
	for s := range status {
		if s == nats.CONNECTED {
			break
		}
	}
	if err := conn.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := bus.Ask(t.Context(), conn, "echo", text("x"), text("")); err != nil {
		t.Errorf("back again: %v", err)
	}
	conn.Close()
	if text := log.String(); !strings.Contains(text, "nats disconnected") || !strings.Contains(text, "nats reconnected") {
		t.Errorf("the log misses a line:\n%s", text)
	}
	if err := bus.Publish(conn, "x", text("")); !errors.Is(err, gfs.ErrUnavailable) {
		t.Errorf("after Close: %v", err)
	}
}
