package chaos

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"github.com/cairnfs/cairn/clientlib"
	"github.com/cairnfs/cairn/messages/gfs"
)

const (
	// aimPatience is how long a strike waits for the phase that it aims at.
	aimPatience = 6 * time.Second
	// wholeTimeout is how long the replicas that were lost have to be replaced.
	wholeTimeout = time.Minute
)

// strikeAll carries out a plan, one fault after the other, as far as the time allows, and leaves every process running
// and every proxy open. Before each no replica is missing, but for those that strike while replicas are brought back:
// two such in a row could leave a chunk without any. Such a one may cost lease.Grace.
func (r *run) strikeAll(ctx context.Context, client *clientlib.Client, strikes []Strike) error {
	early := true
	for _, s := range strikes {
		early = !early && (s.Aim == Joining || s.Aim == Reconfiguring)
		if !early {
			if err := waitWhole(ctx, client, paths, false); err != nil {
				return err
			}
			if err := rest(ctx, s.After); err != nil {
				return err
			}
		}
		if r.stop.Load() || time.Since(r.ops.begin) > r.Duration {
			return nil // somebody failed, or the time is up
		}
		if err := r.strike(ctx, client, s); err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
		r.report.Strikes++
	}
	return nil
}

// strike carries out one fault and takes it back.
func (r *run) strike(ctx context.Context, client *clientlib.Client, s Strike) error {
	b := &blow{fault: s.Fault, hits: map[string]map[Phase]bool{}}
	if chain := r.waitFor(ctx, s.Aim); chain != nil { // at once, before that is over
		b.server = chain[s.Role%len(chain)]
	} else {
		b.source = r.sources(ctx)
		phases, chains := r.watch.present()
		now, err := r.look(ctx, client, phases, chains)
		if err != nil {
			return err
		}
		for at, chunk := range now {
			if n := len(chunk.members); n > 0 && at.file == s.File && chunk.last {
				b.server = chunk.members[s.Role%n]
			}
		}
	}
	phases, chains := r.watch.present()
	if b.target = r.parts.Server(string(b.server)); b.target == "" {
		b.target = fmt.Sprintf("cs%d", s.Role+1) // nothing has been written yet
	}
	r.ops.strike(b)
	err := r.inflict(b.target, s.Fault)
	r.Say("%9.3f %s of %s for %s", b.at.Seconds(), s.Fault, b.target, s.For.Round(time.Millisecond))
	var looking sync.WaitGroup
	looking.Go(func() { // which may take as long as the fault lasts
		now, lookErr := r.look(ctx, client, phases, chains)
		r.ops.seen(b, now)
		err = errors.Join(err, lookErr)
	})
	ended := errors.Join(rest(ctx, s.For), r.undo(ctx, b.target, s.Fault))
	r.Say("%9.3f over", r.ops.takenBack(b).Seconds())
	looking.Wait()
	return errors.Join(err, ended)
}

func (r *run) inflict(target string, fault Fault) error {
	switch fault {
	case Kill:
		return r.parts.Kill(target)
	case Stop:
		return r.parts.Process(target).Signal(syscall.SIGSTOP)
	}
	r.proxies[target].set(fault)
	return nil
}

func (r *run) undo(ctx context.Context, target string, fault Fault) error {
	switch fault {
	case Kill:
		return r.parts.Start(ctx, target)
	case Stop:
		return r.parts.Process(target).Signal(syscall.SIGCONT)
	}
	r.proxies[target].set("")
	return nil
}

// waitFor waits for a chunk to enter a phase and returns its chain, nil if none does.
func (r *run) waitFor(ctx context.Context, phase Phase) []gfs.ServerID {
	if phase == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, aimPatience)
	defer cancel()
	for since := time.Now(); ; {
		chain, moved := r.watch.find(phase, since)
		if chain != nil {
			return chain
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return nil
		}
	}
}

// waitWhole waits until every chunk of some files has all its good replicas, and, if asked, is closed.
func waitWhole(ctx context.Context, client *clientlib.Client, paths []string, closed bool) error {
	ctx, cancel := context.WithTimeout(ctx, wholeTimeout)
	defer cancel()
	for {
		missing, open := 0, 0
		var err error
		for _, path := range paths {
			found, failed := client.Locations(ctx, path, 0, gfs.MaxFileBytes)
			err = errors.Join(err, failed)
			for _, l := range found {
				missing += max(0, gfs.DefaultReplicas-len(l.Servers))
				if l.Open {
					open++
				}
			}
		}
		if err == nil && missing == 0 && (open == 0 || !closed) {
			return nil
		}
		if ended := rest(ctx, 50*time.Millisecond); ended != nil {
			return fmt.Errorf("%d replicas are still missing, %d chunks open: %w", missing, open, errors.Join(err, ended))
		}
	}
}
