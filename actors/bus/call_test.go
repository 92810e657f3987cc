package bus_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/cairnfs/cairn/actors/bus"
	"github.com/cairnfs/cairn/messages/gfs"
)

// bubble runs a test with a server in a synctest bubble, where time passes at once.
func bubble(t *testing.T, f func(t *testing.T, conn *bus.Conn)) {
	synctest.Test(t, func(t *testing.T) {
		s := startServer(t, &server.Options{DontListen: true})
		f(t, connect(t, bus.Config{InProcess: s}))
	})
}

// step is one message of a server's answer: after a pause, a text, or an error.
type step struct {
	pause time.Duration
	text  string
	err   error
}

// scripted serves subject by the steps: all but the last are progress.
func scripted(t *testing.T, conn *bus.Conn, subject string, steps ...step) {
	serve(t, conn, bus.ServiceConfig{}, bus.Endpoint{Name: "scripted", Subject: subject, Handle: func(r *bus.Request) {
		go func() {
			for i, s := range steps {
				time.Sleep(s.pause) // the bubble's clock
				switch {
				case s.err != nil:
					r.Fail(s.err)
				case i == len(steps)-1:
					r.Reply(text(s.text))
				default:
					r.Progress(text(s.text))
				}
			}
		}()
	}})
}

// collect makes a call and returns the texts that came, the last error, and how long it took. "done" is last.
func collect(conn *bus.Conn, spec bus.Call) (texts []string, last error, took time.Duration) {
	began := time.Now()
	end := make(chan struct{})
	bus.AskAsync(conn, spec, func(a bus.Answer) bool {
		var got wrapperspb.StringValue
		if last = a.Decode(&got); last == nil {
			texts = append(texts, got.GetValue())
		}
		if last != nil || got.GetValue() == "done" {
			close(end)
			return true
		}
		return false
	})
	<-end
	return texts, last, time.Since(began)
}

func TestCall(t *testing.T) {
	const ms = time.Millisecond
	busy := step{pause: 100 * ms, text: "busy"}
	tests := []struct {
		name  string
		steps []step
		want  int // texts
		code  gfs.Code
		quiet bool // the error is ErrSilent
		took  time.Duration
	}{
		{"answer at once", []step{{0, "done", nil}}, 1, gfs.CodeNone, false, 0},
		{"busy, then the answer", []step{busy, busy, busy, busy, {50 * ms, "done", nil}}, 5, gfs.CodeNone, false, 450 * ms},
		{"error", []step{{10 * ms, "", gfs.ErrStaleEpoch}}, 0, gfs.CodeStaleEpoch, false, 10 * ms},
		{"busy, then an error", []step{busy, {0, "", gfs.ErrQuota}}, 1, gfs.CodeQuota, false, 100 * ms},
		{"silent", []step{{400 * ms, "done", nil}}, 0, gfs.CodeOutcomeUnknown, true, 300 * ms},
		{"busy, then silent", []step{busy, busy, {301 * ms, "done", nil}}, 2, gfs.CodeOutcomeUnknown, true, 500 * ms},
		{"busy for too long", []step{busy, busy, busy, busy, busy, busy, busy, busy, busy, busy, busy, {0, "done", nil}},
			9, gfs.CodeOutcomeUnknown, false, 950 * ms},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, conn *bus.Conn) {
				scripted(t, conn, "prepare", test.steps...)
				texts, err, took := collect(conn, bus.Call{Subject: "prepare", Request: text(""),
					Silence: 300 * ms, Total: 950 * ms})
				if len(texts) != test.want || gfs.CodeOf(err) != test.code || errors.Is(err, bus.ErrSilent) != test.quiet {
					t.Errorf("got %v, %v", texts, err)
				}
				if took.Truncate(10*ms) != test.took {
					t.Errorf("took %v, want %v", took, test.took)
				}
				time.Sleep(2 * time.Second) // whatever comes later finds the call gone
			})
		})
	}
}

func TestCallThatReachesNobody(t *testing.T) {
	bubble(t, func(t *testing.T, conn *bus.Conn) {
		_, err, took := collect(conn, bus.Call{Subject: "nobody", Request: text("")})
		if !errors.Is(err, gfs.ErrUnavailable) || took > time.Second {
			t.Errorf("no responders: %v after %v", err, took)
		}
		_, err, _ = collect(conn, bus.Call{Subject: "no subject", Request: text("")})
		if gfs.CodeOf(err) != gfs.CodeInvalid {
			t.Errorf("bad subject: %v", err)
		}
		big := wrapperspb.Bytes(make([]byte, gfs.MaxMessageBytes))
		if _, err, _ = collect(conn, bus.Call{Subject: "x", Request: big}); gfs.CodeOf(err) != gfs.CodeInvalid {
			t.Errorf("oversize: %v", err)
		}
	})
}

func TestCallCancelled(t *testing.T) {
	bubble(t, func(t *testing.T, conn *bus.Conn) {
		scripted(t, conn, "slow", step{time.Second, "done", nil})
		cancel := bus.AskAsync(conn, bus.Call{Subject: "slow", Request: text("")}, func(a bus.Answer) bool {
			t.Errorf("a cancelled call heard %+v", a)
			return true
		})
		time.Sleep(100 * time.Millisecond)
		if !cancel() || cancel() {
			t.Error("cancel is in time once")
		}
		time.Sleep(2 * time.Second)
	})
}

func TestCloseEndsCalls(t *testing.T) {
	bubble(t, func(t *testing.T, conn *bus.Conn) {
		serve(t, conn, bus.ServiceConfig{}, bus.Endpoint{Name: "mute", Subject: "mute",
			Handle: func(r *bus.Request) { r.Ignore() }})
		heard := make(chan error, 2)
		on := func(a bus.Answer) bool { heard <- a.Err; return true }
		bus.AskAsync(conn, bus.Call{Subject: "mute", Request: text(""), Silence: 10 * time.Second}, on)
		synctest.Wait()
		conn.Close()
		if err := <-heard; !errors.Is(err, gfs.ErrOutcomeUnknown) || errors.Is(err, bus.ErrSilent) {
			t.Errorf("got %v", err)
		}
		bus.AskAsync(conn, bus.Call{Subject: "mute", Request: text("")}, on)
		if err := <-heard; !errors.Is(err, gfs.ErrUnavailable) {
			t.Errorf("after Close: %v", err)
		}
	})
}
