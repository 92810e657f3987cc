package actors_test

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cairnfs/cairn/actors"
	"github.com/cairnfs/cairn/messages/gfs"
)

func goexit() { runtime.Goexit() }

func ask(ctx context.Context, ref actors.Ref[*shell], n int) (int, error) {
	return actors.Ask(ctx, ref, func(reply actors.Reply[int]) actors.Command[*shell] { return add{n, reply} })
}

func TestAskReturnsValuesAndErrors(t *testing.T) {
	system := newSystem(t)
	ref := actors.Spawn(system, "ask", &shell{})
	if n, err := ask(t.Context(), ref, 7); n != 1 || err != nil {
		t.Errorf("got %d, %v", n, err)
	}
	_, err := actors.Ask(t.Context(), ref, func(reply actors.Reply[int]) actors.Command[*shell] {
		return actors.Func[*shell](func(*shell) { reply.Fail(gfs.Errorf(gfs.CodeQuota, "too much")) })
	})
	if !errors.Is(err, gfs.ErrQuota) {
		t.Errorf("got %v, want the actor's error", err)
	}
	if n := system.Outstanding(); n != 0 {
		t.Errorf("%d replies outstanding", n)
	}
}

func TestAskManyCallers(t *testing.T) {
	system := newSystem(t)
	ref := actors.Spawn(system, "ask", &shell{})
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for i := range 500 {
				if _, err := ask(t.Context(), ref, i); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := len(snapshot(t, ref)); n != 16*500 {
		t.Errorf("%d commands ran", n)
	}
}

func TestAskEndsWithContextAndWithdraws(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		system := newSystem(t)
		defer system.Shutdown()
		ref := actors.Spawn(system, "busy", &shell{})
		hold := make(chan struct{})
		ref.Send(actors.Func[*shell](func(*shell) { <-hold }))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		_, err := ask(ctx, ref, 1)
		if !errors.Is(err, gfs.ErrOutcomeUnknown) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want outcome unknown around the context's error", err)
		}
		if gfs.CodeOf(err) != gfs.CodeOutcomeUnknown {
			t.Errorf("code %v", gfs.CodeOf(err))
		}
		if waited := time.Since(began); waited != time.Second {
			t.Errorf("waited %v", waited)
		}
		if system.Outstanding() != 0 {
			t.Error("a withdrawn command leaves nothing outstanding")
		}
		close(hold)
		if seen := snapshot(t, ref); len(seen) != 0 {
			t.Errorf("a withdrawn command ran: %v", seen)
		}
	})
}

func TestAskGivesUpOnABegunCommand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		system := newSystem(t)
		defer system.Shutdown()
		ref := actors.Spawn(system, "slow", &shell{})
		var kept actors.Reply[int]
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		_, err := actors.Ask(ctx, ref, func(reply actors.Reply[int]) actors.Command[*shell] {
			return actors.Func[*shell](func(*shell) { kept = reply })
		})
		if !errors.Is(err, gfs.ErrOutcomeUnknown) || !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		synctest.Wait()
		if system.Outstanding() != 1 || !kept.Outstanding() {
			t.Error("the actor still owes an answer")
		}
		kept.Ok(1) // nobody listens any more, and nobody minds
		if system.Outstanding() != 0 || kept.Outstanding() {
			t.Error("the answer was given")
		}
	})
}

func TestAskAStoppedActorFailsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		system := newSystem(t)
		defer system.Shutdown()
		ref := actors.Spawn(system, "stopped", &shell{})
		began := time.Now()
		if err := ref.StopWait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := ask(context.Background(), ref, 1); !errors.Is(err, gfs.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
		if waited := time.Since(began); waited != 0 {
			t.Errorf("waited %v", waited)
		}
	})
}

func TestAskWhoseActorStopsMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		system := newSystem(t)
		defer system.Shutdown()
		ref := actors.Spawn(system, "stopping", &shell{})
		hold := make(chan struct{})
		begun, queued := make(chan error, 1), make(chan error, 1)
		var handedOn actors.Reply[int]
		go func() {
			_, err := actors.Ask(context.Background(), ref, func(reply actors.Reply[int]) actors.Command[*shell] {
				return actors.Func[*shell](func(*shell) { handedOn = reply; <-hold })
			})
			begun <- err
		}()
		synctest.Wait()
		ref.Stop()
		go func() {
			_, err := ask(context.Background(), ref, 1)
			queued <- err
		}()
		synctest.Wait()
		close(hold)
		if err := <-queued; !errors.Is(err, gfs.ErrUnavailable) {
			t.Errorf("never begun: got %v, want ErrUnavailable", err)
		}
		if err := <-begun; !errors.Is(err, gfs.ErrOutcomeUnknown) {
			t.Errorf("begun and not answered: got %v, want ErrOutcomeUnknown", err)
		}
		handedOn.Ok(1)
		if n := system.Outstanding(); n != 0 {
			t.Errorf("%d replies outstanding", n)
		}
	})
}

// answersAtLast answers in its last turn, as a shell with waiters does.
type answersAtLast struct{ waiter actors.Reply[string] }

func (s *answersAtLast) Stopped() { s.waiter.Ok("last words") }

// lateContext is a context that Ask looks at when the actor has ended: so that answer and end are both there.
type lateContext struct {
	context.Context
	ended <-chan struct{}
}

func (c lateContext) Done() <-chan struct{} {
	<-c.ended
	return nil
}

func TestAnAnswerOfTheLastTurnArrives(t *testing.T) {
	system := newSystem(t)
	for range 50 { // select picks at random
		ref := actors.Spawn(system, "last", &answersAtLast{})
		ctx := lateContext{t.Context(), ref.Done()}
		got, err := actors.Ask(ctx, ref, func(reply actors.Reply[string]) actors.Command[*answersAtLast] {
			return actors.Func[*answersAtLast](func(s *answersAtLast) { s.waiter = reply; ref.Stop() })
		})
		if got != "last words" || err != nil {
			t.Fatalf("got %q, %v", got, err)
		}
	}
}

func TestReply(t *testing.T) {
	var got []any
	reply := actors.NewReply(func(n int, err error) { got = append(got, n, err) })
	copied := reply
	if !copied.Outstanding() {
		t.Error("a new reply is owed")
	}
	copied.Ok(3)
	if reply.Outstanding() || len(got) != 2 || got[0] != 3 || got[1] != nil {
		t.Errorf("got %v", got)
	}
	mustPanic(t, "answered twice", func() { reply.Ok(4) })
	mustPanic(t, "a nil error", func() { actors.NewReply(func(int, error) {}).Fail(nil) })
	var nobody actors.Reply[int]
	nobody.Ok(1)
	nobody.Fail(gfs.ErrBusy)
	if nobody.Outstanding() {
		t.Error("the zero reply owes nothing")
	}
}

func mustPanic(t *testing.T, what string, f func()) {
	t.Helper()
	defer func() {
		if recover() == nil {
			t.Errorf("%s: no panic", what)
		}
	}()
	f()
}
