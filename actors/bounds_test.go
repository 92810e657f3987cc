package actors_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cairnfs/cairn/actors"
	"github.com/cairnfs/cairn/messages/gfs"
)

func TestGate(t *testing.T) {
	gate := actors.NewGate("requests to the master", 2)
	first, err := gate.Enter()
	if err != nil {
		t.Fatal(err)
	}
	second, err := gate.Enter()
	if err != nil {
		t.Fatal(err)
	}
	_, err = gate.Enter()
	if !errors.Is(err, gfs.ErrBusy) || !strings.Contains(err.Error(), "2 requests to the master") {
		t.Errorf("got %v", err)
	}
	if gate.InUse() != 2 || gate.Limit() != 2 {
		t.Errorf("in use %d of %d", gate.InUse(), gate.Limit())
	}
	first()
	third, err := gate.Enter()
	if err != nil {
		t.Error(err)
	}
	second()
	third()
	if gate.InUse() != 0 {
		t.Errorf("in use %d", gate.InUse())
	}
	mustPanic(t, "leaving twice", second)
	mustPanic(t, "no limit", func() { actors.NewGate("x", 0) })
}

func TestGateNeverAdmitsMoreThanItsLimit(t *testing.T) {
	gate := actors.NewGate("x", 3)
	var inside, refused atomic.Int32
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 2000 {
				leave, err := gate.Enter()
				if err != nil {
					refused.Add(1)
					continue
				}
				if n := inside.Add(1); n > 3 {
					t.Errorf("%d inside", n)
				}
				inside.Add(-1)
				leave()
			}
		})
	}
	wg.Wait()
	if gate.InUse() != 0 {
		t.Errorf("in use %d at the end, %d refused", gate.InUse(), refused.Load())
	}
}

func TestWorkersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		workers := actors.NewWorkers(2, 3)
		hold := make(chan struct{})
		var running, ran atomic.Int32
		job := func() {
			running.Add(1)
			<-hold
			running.Add(-1)
			ran.Add(1)
		}
		for i := range 5 {
			if !workers.Go(job) {
				t.Fatalf("job %d refused", i)
			}
		}
		synctest.Wait()
		if running.Load() != 2 || workers.InUse() != 5 {
			t.Errorf("%d running, %d in use", running.Load(), workers.InUse())
		}
		if workers.Go(job) {
			t.Error("a sixth job was admitted")
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := workers.Submit(ctx, job); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Submit to a full pool: %v", err)
		}
		submitted := make(chan error, 1)
		go func() { submitted <- workers.Submit(context.Background(), job) }()
		synctest.Wait()
		close(hold)
		if err := <-submitted; err != nil {
			t.Errorf("Submit once there is room: %v", err)
		}
		workers.Stop()
		workers.Stop()
		if ran.Load() != 6 {
			t.Errorf("Stop returned after %d of 6 jobs", ran.Load())
		}
		if workers.Go(job) {
			t.Error("a stopped pool admitted a job")
		}
		if err := workers.Submit(t.Context(), job); !errors.Is(err, gfs.ErrUnavailable) {
			t.Errorf("Submit to a stopped pool: %v", err)
		}
	})
}

func TestWorkersStopReleasesWhoWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		workers := actors.NewWorkers(1, 0)
		hold := make(chan struct{})
		workers.Go(func() { <-hold })
		waiting := make(chan error, 1)
		go func() { waiting <- workers.Submit(context.Background(), func() { t.Error("ran after Stop") }) }()
		synctest.Wait()
		go workers.Stop()
		if err := <-waiting; !errors.Is(err, gfs.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
		close(hold)
	})
}
