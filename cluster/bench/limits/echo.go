package limits

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/cairnfs/cairn/cluster/bench"
)

const (
	echoSubject = "cairn.limits.echo"
	// echoBytes is about what a metadata request and its reply have.
	echoBytes = 200
	// echoPatience bounds one round trip and the start of the server.
	echoPatience = 10 * time.Second
)

// echo is round trips to a NATS micro service in another process over a NATS server in a third, inFlight at a time.
func (c Config) echo(inFlight int) bench.Case {
	p := &parts{}
	var conn *nats.Conn
	payload := c.noise(echoBytes)
	return bench.Case{
		Name: fmt.Sprintf("nats-echo-%d", inFlight), CPU: p.cpu,
		Prepare: func(ctx context.Context) error {
			url, err := p.start(ctx, c.Command, "nats")
			if err != nil {
				return err
			}
			if _, err := p.start(ctx, c.Command, "echo", url); err != nil {
				return err
			}
			conn, err = nats.Connect(url)
			return err
		},
		Close: func(ctx context.Context) error {
			if conn != nil {
				conn.Close()
			}
			return p.stop(ctx)
		},
		Run: func(ctx context.Context, watch *bench.Stopwatch) (*bench.Tally, error) {
			watch.Start()
			tally := bench.Parallel(inFlight, func(i int, tally *bench.Tally) {
				for range bench.Share(c.Ops, i, inFlight) {
					begin := time.Now()
					if err := roundTrip(ctx, conn, payload); err != nil {
						tally.Fail(err)
						return
					}
					tally.Latency.Record(time.Since(begin))
					tally.Ops++
				}
			})
			watch.Stop()
			return tally, tally.FirstError
		},
	}
}

func roundTrip(ctx context.Context, conn *nats.Conn, payload []byte) error {
	ctx, cancel := context.WithTimeout(ctx, echoPatience)
	defer cancel()
	reply, err := conn.RequestWithContext(ctx, echoSubject, payload)
	if err != nil {
		return fmt.Errorf("NATS round trip: %w", err)
	}
	if !bytes.Equal(reply.Data, payload) {
		return fmt.Errorf("NATS round trip: %d bytes came back other than they went", len(reply.Data))
	}
	return nil
}

// serveNATS is the role nats.
func serveNATS(ctx context.Context, out io.Writer) error {
	s, err := server.NewServer(&server.Options{ServerName: "limits", Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true})
	if err != nil {
		return err
	}
	s.Start()
	defer s.WaitForShutdown()
	defer s.Shutdown()
	if !s.ReadyForConnections(echoPatience) {
		return fmt.Errorf("the NATS server does not listen after %s", echoPatience)
	}
	if _, err := fmt.Fprintln(out, "ready", s.ClientURL()); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// serveEcho is the role echo.
func serveEcho(ctx context.Context, url string, out io.Writer) error {
	conn, err := nats.Connect(url)
	if err != nil {
		return err
	}
	defer conn.Close()
	service, err := micro.AddService(conn, micro.Config{
		Name: "limits", Version: "1.0.0", QueueGroupDisabled: true,
		Endpoint: &micro.EndpointConfig{Subject: echoSubject, Handler: micro.HandlerFunc(func(r micro.Request) {
			_ = r.Respond(r.Data()) // without an answer the caller's time runs out, which it reports
		})},
	})
	if err != nil {
		return err
	}
	if err := conn.FlushTimeout(echoPatience); err != nil { // until then the server may not know of the endpoint
		return err
	}
	if _, err := fmt.Fprintln(out, "ready", url); err != nil {
		return err
	}
	<-ctx.Done()
	return service.Stop()
}
