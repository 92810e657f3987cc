package actors_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"

	"github.com/cairnfs/cairn/actors"
	"github.com/cairnfs/cairn/messages/gfs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func quietLog() *logrus.Entry {
	logger := logrus.New()
	logger.SetOutput(io.Discard)
	return logrus.NewEntry(logger)
}

// newSystem makes a system whose crashes fail the test.
func newSystem(t testing.TB) *actors.System {
	t.Helper()
	system := actors.NewSystem(actors.Config{
		Log:   quietLog(),
		Crash: func(err error) { t.Errorf("an actor crashed: %v", err) },
	})
	t.Cleanup(system.Shutdown)
	return system
}

// shell is an actor that remembers.
type shell struct {
	seen    []int
	stopped chan int // gets len(seen) in the last turn, if not nil
}

func (s *shell) Stopped() {
	if s.stopped != nil {
		s.stopped <- len(s.seen)
	}
}

type add struct {
	n     int
	reply actors.Reply[int]
}

func (c add) Do(s *shell) {
	s.seen = append(s.seen, c.n)
	c.reply.Ok(len(s.seen))
}

// snapshot copies what the shell has seen.
func snapshot(t testing.TB, ref actors.Ref[*shell]) []int {
	t.Helper()
	seen, err := actors.Ask(t.Context(), ref, func(reply actors.Reply[[]int]) actors.Command[*shell] {
		return actors.Func[*shell](func(s *shell) { reply.Ok(append([]int(nil), s.seen...)) })
	})
	if err != nil {
		t.Fatalf("snapshot: %v", err)
	}
	return seen
}

func TestOrderPerSender(t *testing.T) {
	system := newSystem(t)
	ref := actors.Spawn(system, "order", &shell{})
	const senders, each = 8, 2000
	var wg sync.WaitGroup
	for sender := range senders {
		wg.Go(func() {
			for i := range each {
				ref.Send(add{n: sender*each + i})
			}
		})
	}
	wg.Wait()
	seen := snapshot(t, ref)
	if len(seen) != senders*each {
		t.Fatalf("%d commands ran, want %d", len(seen), senders*each)
	}
	next := make([]int, senders)
	for _, n := range seen {
		sender, i := n/each, n%each
		if i != next[sender] {
			t.Fatalf("sender %d: command %d ran when %d was next", sender, i, next[sender])
		}
		next[sender]++
	}
}

func TestStopRunsWhatIsQueuedAndNothingLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		system := newSystem(t)
		defer system.Shutdown()
		s := &shell{stopped: make(chan int, 2)}
		ref := actors.Spawn(system, "stop", s)
		hold := make(chan struct{})
		ref.Send(actors.Func[*shell](func(*shell) { <-hold }))
		for i := range 10 {
			ref.Send(add{n: i})
		}
		ref.Stop()
		ref.Stop()
		ref.Send(add{n: 99})
		synctest.Wait()
		close(hold)
		if err := ref.StopWait(t.Context()); err != nil {
			t.Fatal(err)
		}
		<-ref.Done()
		if n := <-s.stopped; n != 10 {
			t.Errorf("%d commands ran before the last turn, want the 10 queued before Stop", n)
		}
		ref.Send(add{n: 100})
		ref.Stop()
		synctest.Wait()
		if len(s.seen) != 10 || len(s.stopped) != 0 {
			t.Errorf("after the end: %d commands, %d more last turns", len(s.seen), len(s.stopped))
		}
		if n := system.Running(); n != 0 {
			t.Errorf("Running is %d after the only actor stopped", n)
		}
	})
}

func TestStopWaitEndsWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		system := newSystem(t)
		defer system.Shutdown()
		ref := actors.Spawn(system, "slow", &shell{})
		hold := make(chan struct{})
		ref.Send(actors.Func[*shell](func(*shell) { <-hold }))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := ref.StopWait(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want the context's error", err)
		}
		close(hold)
		if err := ref.StopWait(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestZeroRefDropsEverything(t *testing.T) {
	var ref actors.Ref[*shell]
	ref.Send(add{n: 1})
	ref.Stop()
	<-ref.Done()
	if err := ref.StopWait(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := ask(t.Context(), ref, 1); !errors.Is(err, gfs.ErrUnavailable) {
		t.Errorf("Ask: got %v, want ErrUnavailable", err)
	}
	if ref != (actors.Ref[*shell]{}) || ref.Name() != "" {
		t.Error("zero refs are equal and have no name")
	}
}

func TestTimers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		system := newSystem(t)
		defer system.Shutdown()
		ref := actors.Spawn(system, "timers", &shell{})
		actors.After(ref, 3*time.Second, add{n: 3})
		actors.After(ref, time.Second, add{n: 1})
		cancelled := actors.After(ref, 2*time.Second, add{n: 2})
		time.Sleep(1500 * time.Millisecond) // the bubble's clock
		synctest.Wait()
		if seen := snapshot(t, ref); fmt.Sprint(seen) != "[1]" {
			t.Errorf("after 1.5 s: %v", seen)
		}
		if !cancelled.Stop() || cancelled.Stop() {
			t.Error("Stop is in time once")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if seen := snapshot(t, ref); fmt.Sprint(seen) != "[1 3]" {
			t.Errorf("after 3.5 s: %v", seen)
		}
		if (*actors.Timer)(nil).Stop() {
			t.Error("a nil timer was stopped in time")
		}
	})
}

func TestPanicCrashesOnceAndIsLoggedWithItsStack(t *testing.T) {
	var log bytes.Buffer
	logger := logrus.New()
	logger.SetOutput(&log)
	logger.SetFormatter(&logrus.JSONFormatter{})
	crashes := make(chan error, 10)
	system := actors.NewSystem(actors.Config{Log: logrus.NewEntry(logger), Crash: func(err error) { crashes <- err }})
	defer system.Shutdown()
	s := &shell{stopped: make(chan int, 1)}
	ref := actors.Spawn(system, "doomed", s)
	bug := errors.New("no such lease")
	started, hold := make(chan struct{}), make(chan struct{})
	ref.Send(actors.Func[*shell](func(*shell) { close(started); <-hold; panic(bug) }))
	ref.Send(add{n: 1})
	<-started
	asked := make(chan error, 1)
	go func() {
		_, err := ask(t.Context(), ref, 2)
		asked <- err
	}()
	close(hold)
	err := <-crashes
	var p *actors.PanicError
	if !errors.As(err, &p) || p.Actor != "doomed" || !errors.Is(err, bug) {
		t.Errorf("Crash got %v", err)
	}
	if err := <-asked; !errors.Is(err, gfs.ErrUnavailable) {
		t.Errorf("Ask behind the panic: %v", err)
	}
	<-ref.Done()
	other := actors.Spawn(system, "second", &shell{})
	other.Send(actors.Func[*shell](func(*shell) { panic("again") }))
	<-other.Done()
	system.Shutdown()
	if len(crashes) != 0 {
		t.Error("Crash was called twice")
	}
	if len(s.seen) != 0 || len(s.stopped) != 0 {
		t.Error("a broken actor had another turn")
	}
	if text := log.String(); strings.Count(text, `"level":"error"`) != 2 || !strings.Contains(text, "TestPanicCrashesOnce") {
		t.Errorf("two errors with stacks expected in the log:\n%s", text)
	}
}

func TestGoexitInAnActorIsACrash(t *testing.T) {
	crashes := make(chan error, 1)
	system := actors.NewSystem(actors.Config{Log: quietLog(), Crash: func(err error) { crashes <- err }})
	defer system.Shutdown()
	ref := actors.Spawn(system, "goexit", &shell{})
	ref.Send(actors.Func[*shell](func(*shell) { goexit() }))
	if err := <-crashes; !strings.Contains(err.Error(), "Goexit") {
		t.Errorf("Crash got %v", err)
	}
	<-ref.Done()
}

func TestShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		system := newSystem(t)
		var stops atomic.Int32
		for i := range 50 {
			ref := actors.Spawn(system, fmt.Sprint("actor", i), &stopCounter{&stops})
			ref.Send(actors.Func[*stopCounter](func(*stopCounter) {}))
		}
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				system.Shutdown()
				if stops.Load() != 50 {
					t.Errorf("Shutdown returned after %d of 50 last turns", stops.Load())
				}
			})
		}
		wg.Wait()
		late := actors.Spawn(system, "late", &shell{})
		<-late.Done()
		if _, err := ask(t.Context(), late, 1); !errors.Is(err, gfs.ErrUnavailable) {
			t.Errorf("Ask after Shutdown: %v", err)
		}
	})
}

type stopCounter struct{ stops *atomic.Int32 }

func (s *stopCounter) Stopped() { s.stops.Add(1) }

func TestShutdownLeavesAStuckActorBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		logger := logrus.New()
		logger.SetOutput(&log)
		system := actors.NewSystem(actors.Config{Log: logrus.NewEntry(logger)})
		hold := make(chan struct{})
		stuck := actors.Spawn(system, "stuck", &shell{})
		stuck.Send(actors.Func[*shell](func(*shell) { <-hold }))
		actors.Spawn(system, "fine", &shell{})
		began := time.Now()
		system.Shutdown()
		if waited := time.Since(began); waited != 10*time.Second {
			t.Errorf("waited %v, want 10s", waited)
		}
		if text := log.String(); !strings.Contains(text, "stuck") || strings.Contains(text, "fine") {
			t.Errorf("the log should name the stuck actor alone: %s", text)
		}
		close(hold)
		<-stuck.Done()
	})
}

func TestManyActorsComeAndGo(t *testing.T) {
	system := newSystem(t)
	for round := range 200 {
		ref := actors.Spawn(system, "same name", &shell{})
		if n, err := ask(t.Context(), ref, round); n != 1 || err != nil {
			t.Fatalf("round %d: %d, %v", round, n, err)
		}
		ref.Stop()
		for range 5 { // races with the last turn: dropped or run, never reported or blocked
			ref.Send(add{n: 1})
		}
	}
}
