package bus_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/cairnfs/cairn/actors"
	"github.com/cairnfs/cairn/actors/bus"
	"github.com/cairnfs/cairn/messages/gfs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func quietLog() *logrus.Entry {
	logger := logrus.New()
	logger.SetOutput(io.Discard)
	return logrus.NewEntry(logger)
}

// startServer runs a NATS server in this process; without a port it is reached through InProcess alone.
func startServer(t testing.TB, options *server.Options) *server.Server {
	t.Helper()
	options.NoSigs, options.NoLog = true, true
	s, err := server.NewServer(options)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(5 * time.Second) {
		t.Fatal("the NATS server did not start")
	}
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	return s
}

func connect(t testing.TB, cfg bus.Config) *bus.Conn {
	t.Helper()
	if cfg.Log == nil {
		cfg.Log = quietLog()
	}
	conn, err := bus.Connect(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn
}

// pair is a server with two connections over TCP.
func pair(t testing.TB) (one, other *bus.Conn) {
	t.Helper()
	s := startServer(t, &server.Options{Host: "127.0.0.1", Port: -1})
	return connect(t, bus.Config{URL: s.ClientURL()}), connect(t, bus.Config{URL: s.ClientURL()})
}

func serve(t testing.TB, conn *bus.Conn, cfg bus.ServiceConfig, endpoints ...bus.Endpoint) *bus.Service {
	t.Helper()
	cfg.Name, cfg.Version = "cairn-test", "1.2.3"
	if cfg.Gate == nil {
		cfg.Gate = actors.NewGate("requests", 100)
	}
	service, err := bus.Serve(conn, cfg, endpoints...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(service.Stop)
	return service
}

func text(s string) *wrapperspb.StringValue { return wrapperspb.String(s) }

// echo answers with what it got.
func echo(subject string) bus.Endpoint {
	return bus.Endpoint{Name: "echo", Subject: subject, Handle: bus.Typed(
		func(r *bus.Request, message *wrapperspb.StringValue) { r.Reply(message) })}
}

func TestRoundTrip(t *testing.T) {
	one, other := pair(t)
	ids := make(chan string, 2)
	gate := actors.NewGate("requests", 1)
	serve(t, one, bus.ServiceConfig{Gate: gate}, bus.Endpoint{Name: "upper", Subject: "cairn.t.*.upper",
		Handle: bus.Typed(func(r *bus.Request, message *wrapperspb.StringValue) {
			ids <- r.RequestID()
			reply := bus.ReplyTo[*wrapperspb.StringValue](r)
			go reply.Ok(text(r.Subject() + " " + strings.ToUpper(message.GetValue())))
		})})
	var got wrapperspb.StringValue
	ctx := bus.WithRequestID(t.Context(), "op-7")
	if err := bus.Ask(ctx, other, "cairn.t.m1.upper", text("hello"), &got); err != nil {
		t.Fatal(err)
	}
	if got.GetValue() != "cairn.t.m1.upper HELLO" {
		t.Errorf("got %q", got.GetValue())
	}
	if id := <-ids; id != "op-7" {
		t.Errorf("request id %q", id)
	}
	if err := bus.Ask(t.Context(), other, "cairn.t.m1.upper", text(""), &got); err != nil {
		t.Fatal(err)
	}
	if id := <-ids; id != "" {
		t.Errorf("request id %q where none was given", id)
	}
	if gate.InUse() != 0 {
		t.Errorf("%d requests left in the gate", gate.InUse())
	}
}

func TestEveryErrorCodeCrosses(t *testing.T) {
	one, other := pair(t)
	var fail error
	serve(t, one, bus.ServiceConfig{}, bus.Endpoint{Name: "fail", Subject: "fail",
		Handle: func(r *bus.Request) { r.Fail(fail) }})
	ask := func(err error) *gfs.Error {
		t.Helper()
		fail = err
		got := bus.Ask(t.Context(), other, "fail", text(""), text(""))
		var e *gfs.Error
		if !errors.As(got, &e) {
			t.Fatalf("sent %v, got %v", err, got)
		}
		return e
	}
	details := []string{"", "what was wrong; what would be right", "Zürich: größer als 10 €"}
	for code := gfs.CodeNone + 1; code <= gfs.CodeInternal; code++ {
		for _, detail := range details {
			want := gfs.FromCode(code, detail)
			if got := ask(want); *got != *want.(*gfs.Error) {
				t.Errorf("sent %v %q, got %v %q", code, detail, got.Code, got.Detail)
			}
		}
	}
	for _, c := range []struct {
		sent   error
		code   gfs.Code
		detail string
	}{
		{&gfs.Error{Code: 60000, Detail: "of a later version"}, 60000, "of a later version"},
		{&gfs.Error{Detail: "no code"}, gfs.CodeInternal, "no code"},
		{fmt.Errorf("create /a: %w", gfs.Errorf(gfs.CodeQuota, "full")), gfs.CodeQuota, "create /a: quota exceeded: full"},
		{errors.New("odd"), gfs.CodeInternal, "odd"},
		{context.DeadlineExceeded, gfs.CodeOutcomeUnknown, "context deadline exceeded"},
		{gfs.Errorf(gfs.CodeInvalid, " two\r\nlines\x00 "), gfs.CodeInvalid, "two  lines"},
		{gfs.Errorf(gfs.CodeInvalid, "bad \xff byte"), gfs.CodeInvalid, "bad ? byte"},
		{gfs.Errorf(gfs.CodeInvalid, "%s", "a"+strings.Repeat("ü", 5000)), gfs.CodeInvalid, "a" + strings.Repeat("ü", 1023)},
	} {
		if got := ask(c.sent); got.Code != c.code || got.Detail != c.detail {
			t.Errorf("sent %v, got %v %q", c.sent, got.Code, got.Detail)
		}
	}
}

func TestForeignErrorHeaders(t *testing.T) {
	one, other := pair(t)
	var code string
	sub, err := one.NATS().Subscribe("foreign", func(m *nats.Msg) {
		reply := nats.NewMsg(m.Reply)
		reply.Header.Set(micro.ErrorCodeHeader, code)
		reply.Header.Set(micro.ErrorHeader, "its words")
		if err := m.RespondMsg(reply); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := one.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, code = range []string{"x", "0", "-1", "70000", "99999999999999999999"} {
		err := bus.Ask(t.Context(), other, "foreign", text(""), text(""))
		if !errors.Is(err, gfs.ErrInternal) || !strings.Contains(err.Error(), "its words") {
			t.Errorf("code %q: got %v", code, err)
		}
	}
}

func TestMalformedAndOversizeMessages(t *testing.T) {
	s := startServer(t, &server.Options{Host: "127.0.0.1", Port: -1, MaxPayload: 4 << 20})
	one, other := connect(t, bus.Config{URL: s.ClientURL()}), connect(t, bus.Config{URL: s.ClientURL()})
	serve(t, one, bus.ServiceConfig{}, echo("echo"),
		bus.Endpoint{Name: "large", Subject: "large", Handle: func(r *bus.Request) {
			r.Reply(wrapperspb.Bytes(make([]byte, gfs.MaxMessageBytes)))
		}},
		bus.Endpoint{Name: "garbage", Subject: "garbage", Handle: bus.Typed(
			func(r *bus.Request, message *wrapperspb.BytesValue) { r.Reply(message) })})
	raw := func(data []byte) *nats.Msg {
		t.Helper()
		msg, err := other.NATS().RequestMsgWithContext(t.Context(), &nats.Msg{Subject: "echo", Data: data})
		if err != nil {
			t.Fatal(err)
		}
		return msg
	}
	invalid := fmt.Sprint(uint16(gfs.CodeInvalid))
	if msg := raw([]byte("\xff garbage")); msg.Header.Get(micro.ErrorCodeHeader) != invalid ||
		!strings.Contains(msg.Header.Get(micro.ErrorHeader), "google.protobuf.StringValue") {
		t.Errorf("garbage: %v", msg.Header)
	}
	if msg := raw(make([]byte, gfs.MaxMessageBytes+1)); msg.Header.Get(micro.ErrorCodeHeader) != invalid ||
		!strings.Contains(msg.Header.Get(micro.ErrorHeader), "1048576") {
		t.Errorf("oversize: %v", msg.Header)
	}
	big := text(strings.Repeat("x", gfs.MaxMessageBytes))
	if err := bus.Ask(t.Context(), other, "echo", big, text("")); gfs.CodeOf(err) != gfs.CodeInvalid {
		t.Errorf("oversize request: %v", err)
	}
	if err := bus.Ask(t.Context(), other, "large", text(""), text("")); !errors.Is(err, gfs.ErrInternal) {
		t.Errorf("oversize answer: %v", err)
	}
	fits := text(strings.Repeat("x", gfs.MaxMessageBytes-8))
	var got wrapperspb.StringValue
	if err := bus.Ask(t.Context(), other, "echo", fits, &got); err != nil || !proto.Equal(fits, &got) {
		t.Errorf("largest request: %v", err)
	}
	if err := bus.Ask(t.Context(), other, "garbage", wrapperspb.Bytes([]byte("\xff")), text("")); !errors.Is(err, gfs.ErrInternal) {
		t.Errorf("answer of another type: %v", err)
	}
	if err := bus.Ask(t.Context(), other, "no subject", text(""), text("")); gfs.CodeOf(err) != gfs.CodeInvalid {
		t.Errorf("bad subject: %v", err)
	}
}

func TestServerLimitBelowOurs(t *testing.T) {
	s := startServer(t, &server.Options{Host: "127.0.0.1", Port: -1, MaxPayload: 1 << 10})
	conn := connect(t, bus.Config{URL: s.ClientURL()})
	err := bus.Publish(conn, "x", text(strings.Repeat("x", 2<<10)))
	if gfs.CodeOf(err) != gfs.CodeInvalid || !strings.Contains(err.Error(), "1024") {
		t.Errorf("got %v", err)
	}
}

func TestNobodyServes(t *testing.T) {
	conn, _ := pair(t)
	err := bus.Ask(t.Context(), conn, "cairn.t.master.stat", text(""), text(""))
	if !errors.Is(err, gfs.ErrUnavailable) || !strings.Contains(err.Error(), "cairn.t.master.stat") {
		t.Errorf("got %v", err)
	}
}

func TestSilentServer(t *testing.T) {
	one, other := pair(t)
	acting := false
	gate := actors.NewGate("requests", 1)
	seen := make(chan string, 4)
	serve(t, one, bus.ServiceConfig{Gate: gate, Answers: func() bool { return acting }},
		echo("echo"),
		bus.Endpoint{Name: "heartbeat", Subject: "heartbeat.*", Always: true, Handle: func(r *bus.Request) {
			seen <- r.Subject()
			r.Ignore()
		}})
	for _, subject := range []string{"echo", "heartbeat.cs1"} {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
		err := bus.Ask(ctx, other, subject, text(""), text(""))
		cancel()
		if !errors.Is(err, gfs.ErrOutcomeUnknown) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: got %v", subject, err)
		}
	}
	if subject := <-seen; subject != "heartbeat.cs1" {
		t.Errorf("the handler saw %s", subject)
	}
	if gate.InUse() != 0 {
		t.Error("an ignored request stays in the gate")
	}
}

func TestGateRefuses(t *testing.T) {
	one, other := pair(t)
	held := make(chan *bus.Request, 1)
	gate := actors.NewGate("requests to the test", 1)
	serve(t, one, bus.ServiceConfig{Gate: gate}, bus.Endpoint{Name: "hold", Subject: "hold",
		Handle: func(r *bus.Request) { held <- r }})
	first := make(chan error, 1)
	go func() { first <- bus.Ask(t.Context(), other, "hold", text(""), text("")) }()
	r := <-held
	err := bus.Ask(t.Context(), other, "hold", text(""), text(""))
	if !errors.Is(err, gfs.ErrBusy) || !strings.Contains(err.Error(), "1 requests to the test") {
		t.Errorf("got %v", err)
	}
	r.Reply(text(""))
	if err := <-first; err != nil {
		t.Error(err)
	}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("a request was finished twice")
			}
		}()
		r.Ignore()
	}()
}

func TestStoppedService(t *testing.T) {
	one, other := pair(t)
	held := make(chan *bus.Request, 1)
	service := serve(t, one, bus.ServiceConfig{}, bus.Endpoint{Name: "hold", Subject: "hold",
		Handle: func(r *bus.Request) { held <- r }})
	first := make(chan error, 1)
	go func() { first <- bus.Ask(t.Context(), other, "hold", text(""), text("")) }()
	r := <-held
	service.Stop()
	if err := bus.Ask(t.Context(), other, "hold", text(""), text("")); !errors.Is(err, gfs.ErrUnavailable) {
		t.Errorf("after Stop: %v", err)
	}
	r.Reply(text(""))
	if err := <-first; err != nil {
		t.Errorf("admitted before Stop: %v", err)
	}
}

func TestQueueGroup(t *testing.T) {
	one, other := pair(t)
	var mu sync.Mutex
	var answered []string
	shadow := func(name string) bus.Endpoint {
		return bus.Endpoint{Name: "stat", Subject: "shadow.stat", Queue: "shadow", Handle: func(r *bus.Request) {
			mu.Lock()
			answered = append(answered, name)
			mu.Unlock()
			r.Reply(text(name))
		}}
	}
	serve(t, one, bus.ServiceConfig{}, shadow("a"))
	serve(t, one, bus.ServiceConfig{}, shadow("b"))
	for range 20 {
		if err := bus.Ask(t.Context(), other, "shadow.stat", text(""), text("")); err != nil {
			t.Fatal(err)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if len(answered) != 20 {
		t.Errorf("%d handlers ran for 20 requests", len(answered))
	}
}

func TestMonitoringShowsTheService(t *testing.T) {
	one, other := pair(t)
	serve(t, one, bus.ServiceConfig{Description: "a test", Metadata: map[string]string{"cluster": "local"}}, echo("echo"))
	for range 3 {
		if err := bus.Ask(t.Context(), other, "echo", text("x"), text("")); err != nil {
			t.Fatal(err)
		}
	}
	msg, err := other.NATS().RequestWithContext(t.Context(), "$SRV.STATS.cairn-test", nil)
	if err != nil {
		t.Fatal(err)
	}
	var stats micro.Stats
	if err := json.Unmarshal(msg.Data, &stats); err != nil {
		t.Fatal(err)
	}
	if stats.Name != "cairn-test" || stats.Metadata["cluster"] != "local" || len(stats.Endpoints) != 1 {
		t.Fatalf("got %+v", stats)
	}
	e := stats.Endpoints[0]
	if e.NumRequests != 3 || e.QueueGroup != "" || !strings.Contains(string(e.Data), `"replied":3`) {
		t.Errorf("got %+v %s", e, e.Data)
	}
}

func TestServeRefusesBadNames(t *testing.T) {
	conn, _ := pair(t)
	gate := actors.NewGate("requests", 1)
	for _, cfg := range []bus.ServiceConfig{
		{Name: "has space", Version: "1.0.0", Gate: gate},
		{Name: "fine", Version: "one", Gate: gate},
	} {
		if _, err := bus.Serve(conn, cfg); gfs.CodeOf(err) != gfs.CodeInvalid {
			t.Errorf("%+v: got %v", cfg, err)
		}
	}
	_, err := bus.Serve(conn, bus.ServiceConfig{Name: "fine", Version: "1.0.0", Gate: gate}, echo("no subject"))
	if gfs.CodeOf(err) != gfs.CodeInvalid {
		t.Errorf("got %v", err)
	}
}

func TestPublishAndSubscribe(t *testing.T) {
	one, other := pair(t)
	got := make(chan string, 10)
	sub, err := bus.Subscribe(one, "event.>", 100, func(m *bus.Message) {
		var number wrapperspb.Int64Value
		var event struct{ Server string }
		if err := m.Unmarshal(&number); m.Subject() == "event.proto" && err == nil {
			got <- fmt.Sprint(m.Subject(), " ", number.GetValue())
		} else if err := m.DecodeJSON(&event); err == nil {
			got <- fmt.Sprint(m.Subject(), " ", event.Server)
		} else {
			got <- gfs.CodeOf(err).String()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := one.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		bus.Publish(other, "event.proto", wrapperspb.Int64(42)),
		bus.PublishJSON(other, "event.chunkserver.up", map[string]string{"server": "cs1"}),
		other.NATS().Publish("event.garbage", []byte("{")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{"event.proto 42", "event.chunkserver.up cs1", "invalid"} {
		if g := <-got; g != want {
			t.Errorf("got %q, want %q", g, want)
		}
	}
	if err := bus.PublishJSON(other, "event.x", math.Inf(1)); gfs.CodeOf(err) != gfs.CodeInvalid {
		t.Errorf("no JSON: %v", err)
	}
	if err := bus.PublishJSON(other, "event.x", make([]byte, gfs.MaxMessageBytes)); gfs.CodeOf(err) != gfs.CodeInvalid {
		t.Errorf("oversize: %v", err)
	}
	sub.Stop()
	sub.Stop()
	if _, err := bus.Subscribe(one, "no subject", 1, nil); gfs.CodeOf(err) != gfs.CodeInvalid {
		t.Errorf("bad subject: %v", err)
	}
}
